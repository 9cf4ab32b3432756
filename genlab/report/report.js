// The page of report.html.j2: curves, and a player for pictures of several steps.
for (const chart of JSON.parse(document.getElementById("data").textContent)) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  caption.textContent = chart.title;
  figure.append(caption);
  document.getElementById("charts").append(figure);
  lineChart(figure, chart.series);
}
// The button before a slider plays it from end to end.
for (const slider of document.querySelectorAll("input[type=range]")) {
  const button = slider.previousElementSibling;
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "▶"; };
  slider.addEventListener("input", () => {
    if (slider.dataset.kind)
      for (let i = 0; i <= +slider.max; i++) document.getElementById(slider.dataset.kind + "-" + i).hidden = i !== +slider.value;
  });
  slider.addEventListener("pointerdown", stop);
  slider.addEventListener("keydown", stop);
  button.addEventListener("click", () => {
    if (timer) return stop();
    button.textContent = "⏸";
    timer = setInterval(() => {
      slider.value = +slider.value >= +slider.max ? 0 : +slider.value + 1;
      slider.dispatchEvent(new Event("input"));
    }, slider.dataset.kind ? 500 : 120);
  });
}
// The film: column k of the last interpolation picture, its rows side by side.
for (const canvas of document.querySelectorAll("canvas")) {
  const cell = +canvas.dataset.cell, gap = 2, slider = document.querySelector("[data-player]");
  const image = new Image(), draw = () => {
    for (let r = 0; r < rows; r++)
      canvas.getContext("2d").drawImage(image, gap + slider.value * (cell + gap), gap + r * (cell + gap), cell, cell, r * (cell + gap), 0, cell, cell);
  };
  let rows = 0;
  image.onload = () => {
    rows = Math.round((image.height - gap) / (cell + gap));
    slider.max = Math.round((image.width - gap) / (cell + gap)) - 1;
    canvas.width = rows * (cell + gap) - gap;
    canvas.height = cell;
    slider.addEventListener("input", draw);
    draw();
    canvas.dataset.ready = slider.max;
  };
  image.src = [...document.querySelectorAll("[id^=interpolation-] img")].pop().src;
}
