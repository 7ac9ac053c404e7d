// The completions' filter. Without it every completion is shown.
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const { left, right, set, verdict, changed, search } = form.elements;
  const items = [...document.querySelectorAll(".pair")].map((element) => ({
    element,
    prompt: element.querySelector("h3").textContent.toLowerCase(),
    answers: [...element.querySelectorAll(".answer")].map((answer) => ({
      element: answer,
      subjects: (answer.dataset.subjects || "").split(" "),
      verdict: answer.dataset.verdict,
      words: answer.textContent.toLowerCase(),
    })),
  }));
  const count = form.querySelector("output");
  // The two that are compared, in that order; without a choice all that there are.
  const compared = ({ answers }) => {
    if (!left) return answers;
    const two = [left.value, right.value].map((chosen) => answers.find(({ subjects }) => subjects.includes(chosen)));
    return [...new Set(two)].filter(Boolean);
  };
  const differ = ({ element }, shown) =>
    left ? new Set(shown.map((answer) => answer.verdict)).size > 1 : element.dataset.changed === "yes";
  const apply = () => {
    const wanted = search.value.trim().toLowerCase();
    let total = 0;
    for (const item of items) {
      const shown = compared(item);
      for (const answer of item.answers) {
        answer.element.hidden = !shown.includes(answer);
        answer.element.style.order = shown.indexOf(answer);
      }
      const fits =
        (!set.value || item.element.dataset.set === set.value) &&
        (!verdict.value || shown.some((answer) => answer.verdict === verdict.value)) &&
        (!changed.checked || differ(item, shown)) &&
        (item.prompt.includes(wanted) || shown.some((answer) => answer.words.includes(wanted)));
      item.element.hidden = !fits;
      total += fits;
    }
    count.textContent = `${total} of ${items.length} shown`;
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
