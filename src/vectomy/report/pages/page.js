// What a page does beside being read. Without it everything is shown, on one long page.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // The completions: a filter, and pages of what it leaves.
  const completions = (form) => {
    const { left, right, set, verdict, changed, search, size } = form.elements;
    const items = all(".pair").map((element) => ({
      element,
      prompt: element.querySelector("h3").textContent.toLowerCase(),
      answers: all(".answer", element).map((answer) => ({
        element: answer,
        subjects: (answer.dataset.subjects || "").split(" "),
        verdict: answer.dataset.verdict,
        words: all("h4, .words", answer).map((part) => part.textContent).join(" ").toLowerCase(),
      })),
    }));
    const count = form.querySelector("output");
    const pagers = all(".pager");
    let page = 0;
    // The two that are compared, in that order; without a choice all that there are.
    const compared = ({ answers }) => {
      if (!left) return answers;
      const two = [left.value, right.value].map((chosen) => answers.find(({ subjects }) => subjects.includes(chosen)));
      return [...new Set(two)].filter(Boolean);
    };
    const differ = ({ element }, shown) =>
      left ? new Set(shown.map((answer) => answer.verdict)).size > 1 : element.dataset.changed === "yes";
    const shownItems = () => items.filter(({ element }) => !element.hidden);
    const turn = (to) => {
      const fitting = shownItems();
      const length = Number(size.value) || Math.max(fitting.length, 1);
      const pages = Math.max(Math.ceil(fitting.length / length), 1);
      page = Math.min(Math.max(to, 0), pages - 1);
      fitting.forEach(({ element }, index) => {
        element.classList.toggle("off", Math.floor(index / length) !== page);
      });
      for (const pager of pagers) {
        const [previous, next] = all("button", pager);
        pager.hidden = pages === 1;
        previous.disabled = page === 0;
        next.disabled = page === pages - 1;
        pager.querySelector("span").textContent = `page ${page + 1} of ${pages}`;
      }
    };
    const apply = () => {
      const wanted = search.value.trim().toLowerCase();
      for (const item of items) {
        const shown = compared(item);
        for (const answer of item.answers) {
          answer.element.hidden = !shown.includes(answer);
          answer.element.style.order = shown.indexOf(answer);
        }
        item.element.hidden = !(
          (!set.value || item.element.dataset.set === set.value) &&
          (!verdict.value || shown.some((answer) => answer.verdict === verdict.value)) &&
          (!changed.checked || differ(item, shown)) &&
          (item.prompt.includes(wanted) || shown.some((answer) => answer.words.includes(wanted)))
        );
      }
      count.textContent = `${shownItems().length} of ${items.length} shown`;
      turn(0);
    };
    for (const pager of pagers) {
      all("button", pager).forEach((button, index) => {
        button.addEventListener("click", () => {
          turn(page + (index ? 1 : -1));
          if (pager === pagers[1]) form.scrollIntoView();
        });
      });
    }
    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    apply();
    // Turn to the page of a prompt; a filter that hides it is taken off.
    return (element) => {
      if (element.hidden) {
        form.reset();
        apply();
      }
      const place = shownItems().findIndex((item) => item.element === element);
      turn(Math.floor(place / (Number(size.value) || Infinity)));
    };
  };

  // One of several pictures by a slider.
  const slider = (form) => {
    const { layer } = form.elements;
    const planes = all(".plane", form.parentElement);
    const show = () => {
      planes.forEach((plane, index) => (plane.hidden = index !== Number(layer.value)));
      const name = planes[layer.value].dataset.layer;
      form.querySelector("output").textContent = name;
      layer.setAttribute("aria-valuetext", `layer ${name}`);
    };
    form.hidden = false;
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    show();
  };

  // The numbers of one edit that was tried, and the command that takes it.
  const chooser = (form) => {
    const { point } = form.elements;
    const marks = all("[data-point]", form.parentElement);
    const [told, command] = all("p, pre", form);
    const show = () => {
      const { told: words, take } = point.selectedOptions[0].dataset;
      told.textContent = words;
      command.textContent = take ? `vectomy pick RUN --take ${take}` : "";
      command.hidden = !take;
      for (const mark of marks) mark.classList.toggle("picked", mark.dataset.point === point.value);
    };
    const nearest = (event) => {
      const away = (mark) => {
        const box = mark.getBoundingClientRect();
        return Math.hypot(event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2);
      };
      const best = marks.reduce((one, other) => (away(other) < away(one) ? other : one));
      if (away(best) < 24 && point.value !== best.dataset.point) {
        point.value = best.dataset.point;
        show();
      }
    };
    form.hidden = false;
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    if (marks.length) {
      const chart = marks[0].closest("svg");
      for (const kind of ["pointermove", "click"]) chart.addEventListener(kind, nearest);
    }
    show();
  };

  // Tables as CSV, pictures as SVG and PNG: made here, for the page loads nothing.
  const save = (blob, name, kind) => {
    const words = `${document.title} ${name}`.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
    const link = make("a", { href: URL.createObjectURL(blob), download: `${words.slice(0, 90)}.${kind}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const words = (cell) => {
    const copy = cell.cloneNode(true);
    all("small, .save", copy).forEach((element) => element.remove());
    const value = copy.querySelector("data");
    return (value ? value.value : copy.textContent).replace(/\s+/g, " ").trim();
  };
  const details = (cell) => all("small", cell).map((element) => element.textContent.trim()).join("; ");
  // What a spreadsheet would take for a formula is text.
  const quoted = (text) => `"${(/^[=+@\t\r]|^-(?![\d.])/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  const csv = (table) => {
    const body = [...table.rows].filter((row) => row.parentElement !== table.tHead);
    const width = Math.max(...body.map((row) => row.cells.length));
    // Counts and intervals below a number have a column of their own.
    const twice = Array.from({ length: width }, (_, at) => body.some(({ cells }) => cells[at] && details(cells[at])));
    const line = (row) =>
      [...row.cells].flatMap((cell, at) => {
        const head = row.parentElement === table.tHead;
        const text = head ? `${words(cell)} ${details(cell)}`.trim() : words(cell);
        return twice[at] ? [text, head ? `${text}, detail` : details(cell)] : [text];
      }).map(quoted).join(",");
    return [...table.rows].map(line).join("\r\n") + "\r\n";
  };
  const LOOKS = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin",
    "opacity", "paint-order", "font-family", "font-size", "font-weight", "text-anchor"];
  const paper = () => getComputedStyle(document.body).backgroundColor;
  const svg = (drawn) => {
    const copy = drawn.cloneNode(true);
    const copies = all("*", copy);
    all("*", drawn).forEach((element, index) => {
      const style = getComputedStyle(element);
      for (const look of LOOKS) copies[index].setAttribute(look, style.getPropertyValue(look));
      copies[index].removeAttribute("class");
    });
    const { width, height } = drawn.viewBox.baseVal;
    copy.removeAttribute("style");
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    const ground = document.createElementNS(drawn.namespaceURI, "rect");
    for (const [name, value] of Object.entries({ width, height, fill: paper() })) ground.setAttribute(name, value);
    copy.prepend(ground);
    return new XMLSerializer().serializeToString(copy);
  };
  // Drawn shape by shape: the policy of the page lets no image be loaded, not even its own.
  const png = (drawn, scale = 3) => {
    const { width, height } = drawn.viewBox.baseVal;
    const canvas = make("canvas", { width: width * scale, height: height * scale });
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = paper();
    pen.fillRect(0, 0, width, height);
    for (const element of all("rect, circle, path, text", drawn)) {
      const style = getComputedStyle(element);
      const number = (name) => parseFloat(element.getAttribute(name)) || 0;
      const shape = new Path2D(element.getAttribute("d") || "");
      if (element.tagName === "rect") shape.roundRect(number("x"), number("y"), number("width"), number("height"), number("rx"));
      if (element.tagName === "circle") shape.arc(number("cx"), number("cy"), number("r"), 0, 2 * Math.PI);
      pen.globalAlpha = Number(style.opacity);
      pen.lineWidth = parseFloat(style.strokeWidth);
      pen.lineJoin = style.strokeLinejoin;
      pen.lineCap = style.strokeLinecap;
      pen.setLineDash(style.strokeDasharray === "none" ? [] : style.strokeDasharray.split(",").map(parseFloat));
      pen.strokeStyle = style.stroke;
      pen.fillStyle = style.fill;
      pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
      pen.textAlign = { middle: "center", end: "right" }[style.textAnchor] || "left";
      const text = element.tagName === "text" && [element.textContent, number("x"), number("y")];
      const stroke = () => style.stroke !== "none" && (text ? pen.strokeText(...text) : pen.stroke(shape));
      if (text) stroke();
      if (style.fill !== "none") {
        pen.globalAlpha *= Number(style.fillOpacity);
        if (text) pen.fillText(...text);
        else pen.fill(shape);
        pen.globalAlpha = Number(style.opacity);
      }
      if (!text) stroke();
    }
    return new Promise((done) => canvas.toBlob(done));
  };
  const buttons = (kinds, name) =>
    make("span", { className: "save" }, ...Object.entries(kinds).map(([kind, work]) => {
      const button = make("button", { type: "button", textContent: kind, ariaLabel: `Save ${name} as ${kind}` });
      button.addEventListener("click", async () => {
        const made = await work();
        save(typeof made === "string" ? new Blob([made], { type: "text/plain" }) : made, name, kind.toLowerCase());
      });
      return button;
    }));
  const saving = () => {
    for (const table of all("table")) {
      const name = table.caption.textContent.trim();
      (table.caption.querySelector("span") || table.caption).append(buttons({ CSV: () => csv(table) }, name.slice(0, 60)));
    }
    for (const figure of all("figure")) {
      const visible = () => all("svg", figure).find((drawn) => drawn.checkVisibility()) || figure.querySelector("svg");
      if (!figure.querySelector("svg")) continue;
      const name = visible().querySelector("title").textContent;
      const end = figure.querySelector("figcaption") || figure;
      end.append(buttons({ SVG: () => svg(visible()), PNG: () => png(visible()) }, name));
    }
  };

  // Links to sections and prompts, and what is open where a link leads.
  const links = (turnTo) => {
    for (const heading of all("section[id] > h2")) {
      const { id } = heading.parentElement;
      heading.append(" ", make("a", { className: "anchor", href: `#${id}`, textContent: "#", ariaLabel: `Link to ${heading.textContent}` }));
    }
    const follow = () => {
      const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (!target) return;
      for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
      if (turnTo && target.matches(".pair")) turnTo(target);
      target.scrollIntoView();
    };
    addEventListener("hashchange", follow);
    if (location.hash) follow();
    const entries = all(".contents a");
    const seen = new Map();
    const watch = new IntersectionObserver((changes) => {
      for (const { target, isIntersecting } of changes) seen.set(target.id, isIntersecting);
      const first = entries.find(({ hash }) => seen.get(hash.slice(1)));
      for (const entry of entries) {
        if (entry === first) entry.setAttribute("aria-current", "true");
        else entry.removeAttribute("aria-current");
      }
    }, { rootMargin: "-80px 0px -55% 0px" });
    for (const section of all("main > section[id]")) watch.observe(section);
  };

  // A map that is wider than its place begins where something was edited.
  for (const map of all(".broad .scroll")) {
    const first = map.querySelector("g");
    if (first) map.scrollLeft = Math.max(first.getBoundingClientRect().x - map.getBoundingClientRect().x - 90, 0);
  }

  // A table that is wider than its place says so.
  const wide = new ResizeObserver((changes) => {
    for (const { target } of changes) target.classList.toggle("more", target.scrollWidth > target.clientWidth + 1);
  });

  const filter = document.getElementById("filter");
  const turnTo = filter && completions(filter);
  all("form.slider").forEach(slider);
  all("form.chooser").forEach(chooser);
  saving();
  links(turnTo);
  all("div.scroll").forEach((element) => wide.observe(element));
})();
