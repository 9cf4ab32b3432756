// The page of explorer.html.j2: one code, and everything on the page moves it or shows it.
const $ = (id) => document.getElementById(id), data = JSON.parse($("data").textContent);
const [C, H, W] = data.shape, mean = floats(data.mean), D = mean.length, K = data.deviations.length;
const axes = floats(data.directions), decode = load(data.decode), encode = data.encode && load(data.encode);
const axis = (k) => axes.subarray(k * D, (k + 1) * D), dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
const drawn = data.drawn && floats(data.drawn), held = data.held_out && floats(data.held_out.codes);
const label = () => (data.num_classes ? [[+$("label").value]] : []);
// The same first picture at every visit, and others from then on (mulberry32).
let seed = 1;
function uniform() {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}
function draw() {
  if (drawn) return drawn.slice((uniform() * (drawn.length / D) | 0) * D).subarray(0, D);
  if (data.prior === "uniform") return Float32Array.from({ length: D }, () => 2 * uniform() - 1);
  return Float32Array.from({ length: D }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}
function paint(canvas, pixels) {
  canvas.width = W;
  canvas.height = H;
  const context = canvas.getContext("2d"), made = context.createImageData(W, H);
  for (let i = 0; i < H * W; i++) {
    for (let c = 0; c < 3; c++) made.data[4 * i + c] = Math.round((pixels[(C === 1 ? 0 : c) * H * W + i] + 1) * 127.5);
    made.data[4 * i + 3] = 255;
  }
  context.putImageData(made, 0, 0);
}
let code = null, waiting = false;
const ends = { a: null, b: null };
// At most one picture a frame, however fast a slider moves.
function show() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const start = performance.now(), pixels = decode(code, ...label());
    $("time").textContent = `${(performance.now() - start).toFixed(0)} ms`;
    paint($("picture"), pixels);
    document.body.dataset.ready = 1 + +(document.body.dataset.ready ?? 0);
  });
}
const sliders = data.shares.map((share, k) => {
  const line = document.createElement("label"), name = document.createElement("span"), value = document.createElement("output");
  const input = Object.assign(document.createElement("input"), { type: "range", min: -4, max: 4, step: 0.05 });
  line.className = "slider";
  name.textContent = `${k + 1} `;
  const part = Object.assign(document.createElement("span"), { className: "soft" });
  part.textContent = `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  name.append(part);
  line.append(name, input, value);
  $("sliders").append(line);
  input.addEventListener("input", () => {
    const move = input.value * data.deviations[k] - along(k), way = axis(k);
    code = code.map((v, i) => v + move * way[i]);
    value.textContent = (+input.value).toFixed(2);
    show();
  });
  return { input, value };
});
const along = (k) => dot(axis(k), code.map((v, i) => v - mean[i]));
function go(to) {
  code = to;
  sliders.forEach(({ input, value }, k) => {
    input.value = along(k) / data.deviations[k];
    value.textContent = (along(k) / data.deviations[k]).toFixed(2);
  });
  show();
}
function end(name, to) {
  ends[name] = { code: to, label: label() };
  paint($(name), decode(to, ...label()));
}
// On the line, at a length between those of both ends: the middle of two random codes would be shorter than either.
function between(t) {
  const [a, b] = [ends.a.code, ends.b.code], line = a.map((v, i) => (1 - t) * v + t * b[i]);
  const length = (v) => Math.sqrt(dot(v, v)), wanted = (1 - t) * length(a) + t * length(b), now = length(line);
  return now > 1e-3 * wanted ? line.map((v) => (v * wanted) / now) : line;
}
$("random").addEventListener("click", () => go(draw()));
$("middle").addEventListener("click", () => go(mean.slice()));
for (const name of ["a", "b"]) $(`to-${name}`).addEventListener("click", () => end(name, code.slice()));
$("between").addEventListener("input", () => go(between(+$("between").value)));
if (data.num_classes)
  $("label").addEventListener("input", () => {
    for (const name of ["a", "b"]) end(name, ends[name].code);
    show();
  });
let timer = null;
const stop = () => { clearInterval(timer); timer = null; $("play").textContent = "▶"; };
for (const kind of ["pointerdown", "keydown"]) $("between").addEventListener(kind, stop);
$("play").addEventListener("click", () => {
  if (timer) return stop();
  let t = +$("between").value >= 1 ? 0 : +$("between").value;
  $("play").textContent = "⏸";
  timer = setInterval(() => {
    $("between").value = t = Math.min(1, t + 0.02);
    go(between(t));
    if (t >= 1) stop();
  }, 50);
});
if (held) {
  const bytes = Uint8Array.from(atob(data.held_out.pixels), (letter) => letter.charCodeAt(0)), size = C * H * W;
  for (let i = 0; i * size < bytes.length; i++) {
    const button = Object.assign(document.createElement("button"), { type: "button", ariaLabel: `held-out picture ${i + 1}` });
    const canvas = document.createElement("canvas");
    paint(canvas, Float32Array.from(bytes.subarray(i * size, (i + 1) * size), (v) => v / 127.5 - 1));
    button.append(canvas);
    $("held").append(button);
    button.addEventListener("click", () => {
      if (data.num_classes && data.held_out.labels) $("label").value = data.held_out.labels[i];
      go(held.slice(i * D, (i + 1) * D));
    });
  }
}
// The middle square of a picture in the model's size, (C, H, W) in [-1, 1]; grey by the eye's weights.
function pixelsOf(image, inverted) {
  const side = Math.min(image.width, image.height), canvas = Object.assign(document.createElement("canvas"), { width: W, height: H });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, W, H);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, W, H);
  const seen = context.getImageData(0, 0, W, H).data, made = new Float32Array(C * H * W);
  for (let i = 0; i < H * W; i++) {
    const [r, g, b] = [0, 1, 2].map((c) => seen[4 * i + c] / 127.5 - 1);
    if (C === 1) made[i] = (0.299 * r + 0.587 * g + 0.114 * b) * (inverted ? -1 : 1);
    else [r, g, b].forEach((v, c) => { made[c * H * W + i] = v; });
  }
  return made;
}
if (encode) {
  let last = null;
  const read = async (file) => {
    if (!file) return;
    $("wrong").textContent = "";
    try {
      const image = await createImageBitmap(file), pixels = pixelsOf(image, $("invert")?.checked);
      last = file;
      const found = encode(pixels).map((v) => v * data.code_scale);
      paint($("given"), pixels);
      paint($("again"), decode(found, ...label()));
      $("seen").hidden = false;
      go(found);
    } catch (error) {
      $("wrong").textContent = `${file.name}: not a picture that this browser can read`;
    }
  };
  $("file").addEventListener("change", () => read($("file").files[0]));
  $("invert")?.addEventListener("change", () => read(last));
  for (const kind of ["dragover", "dragleave", "drop"])
    $("drop").addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") read(event.dataTransfer.files[0]);
    });
}
end("a", draw());
end("b", draw());
go(ends.a.code.slice());
