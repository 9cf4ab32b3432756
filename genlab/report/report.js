// The page of report.html.j2: curves, and players for the pictures of several steps.
for (const chart of JSON.parse(document.getElementById("data").textContent)) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = chart.title;
  figure.append(caption);
  document.getElementById("charts").append(figure);
  lineChart(figure, chart.series);
}

// The button in front of a slider plays it.
for (const slider of document.querySelectorAll("input[type=range]")) {
  const button = slider.previousElementSibling;
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "▶";
  };
  slider.addEventListener("input", () => {
    if (slider.dataset.kind)
      for (let i = 0; i <= +slider.max; i++)
        document.getElementById(slider.dataset.kind + "-" + i).hidden = i !== +slider.value;
  });
  slider.addEventListener("pointerdown", stop);
  slider.addEventListener("keydown", stop);
  button.addEventListener("click", () => {
    if (timer) return stop();
    button.textContent = "⏸";
    const next = () => {
      slider.value = +slider.value >= +slider.max ? 0 : +slider.value + 1;
      slider.dispatchEvent(new Event("input"));
    };
    timer = setInterval(next, slider.dataset.kind ? 500 : 120);
  });
}

// The animation: a column of the last interpolation picture, its rows side by side.
for (const canvas of document.querySelectorAll("canvas")) {
  const cell = +canvas.dataset.cell;
  const gap = 2;
  const slider = document.querySelector("[data-player]");
  const image = new Image();
  const context = canvas.getContext("2d");
  const pitch = cell + gap;
  const from = (r) => [gap + slider.value * pitch, gap + r * pitch];
  const draw = () => {
    for (let r = 0; r < rows; r++)
      context.drawImage(image, ...from(r), cell, cell, r * pitch, 0, cell, cell);
  };
  let rows = 0;
  image.onload = () => {
    rows = Math.round((image.height - gap) / pitch);
    slider.max = Math.round((image.width - gap) / pitch) - 1;
    canvas.width = rows * pitch - gap;
    canvas.height = cell;
    slider.addEventListener("input", draw);
    draw();
    canvas.dataset.ready = slider.max;
  };
  image.src = [...document.querySelectorAll("[id^=interpolation-] img")].pop().src;
}
