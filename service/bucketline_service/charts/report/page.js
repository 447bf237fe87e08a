"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 1040px)");
  const config = { displayModeBar: false, responsive: true };

  function draw(isPrinted) {
    const theme = dark.matches && !isPrinted ? "dark" : "light";
    const width = narrow.matches && !isPrinted ? "narrow" : "wide";
    const each = [["comparison", figures.comparison[theme][width]]];
    figures.plans.forEach((plan, index) => plan && each.push([`plan-${index}`, plan[theme]]));
    for (const [id, figure] of each) {
      const layout = isPrinted ? { ...figure.layout, width: 980 } : { ...figure.layout, autosize: true };
      document.getElementById(id).style.height = `${layout.height}px`;
      Plotly.react(id, figure.data, layout, config);
    }
  }

  const opened = [];
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      opened.push(details);
    }
    draw(true);
  });
  addEventListener("afterprint", () => {
    opened.splice(0).forEach((details) => { details.open = false; });
    draw(false);
  });
  for (const query of [dark, narrow]) query.addEventListener("change", () => draw(false));
  draw(false);
})();
