// The completions' filter. Without it every completion is shown.
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const items = [...document.querySelectorAll(".pair")].map((element) => ({
    element,
    words: element.textContent.toLowerCase(),
  }));
  const count = form.querySelector("output");
  const apply = () => {
    const { set, changed, search } = form.elements;
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const { element, words } of items) {
      const fits =
        (!set.value || element.dataset.set === set.value) &&
        (!changed.checked || element.dataset.changed === "yes") &&
        words.includes(wanted);
      element.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${items.length} shown`;
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
