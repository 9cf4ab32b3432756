// The page of explorer.html.j2: it has one code, which every control moves or shows.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const [C, H, W] = data.shape;
const mean = floats(data.mean);
const D = mean.length;
const K = data.deviations.length;
const axes = floats(data.directions);
const decode = load(data.decode);
const encode = data.encode && load(data.encode);
const axis = (k) => axes.subarray(k * D, (k + 1) * D);
const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
const drawn = data.drawn && floats(data.drawn);
const held = data.held_out && floats(data.held_out.codes);
const label = () => (data.num_classes ? [[+$("label").value]] : []);

// Random numbers (mulberry32), so that every visit starts with the same picture.
let seed = 1;

function uniform() {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}

// A code of the prior.
function draw() {
  if (drawn) return drawn.slice(((uniform() * (drawn.length / D)) | 0) * D).subarray(0, D);
  if (data.prior === "uniform") return Float32Array.from({ length: D }, () => 2 * uniform() - 1);
  // A normal distribution by the Box-Muller transform
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return Float32Array.from({ length: D }, normal);
}

// Draws pixels (C, H, W) in [-1, 1].
function paint(canvas, pixels) {
  canvas.width = W;
  canvas.height = H;
  const context = canvas.getContext("2d");
  const made = context.createImageData(W, H);
  for (let i = 0; i < H * W; i++) {
    for (let c = 0; c < 3; c++)
      made.data[4 * i + c] = Math.round((pixels[(C === 1 ? 0 : c) * H * W + i] + 1) * 127.5);
    made.data[4 * i + 3] = 255;
  }
  context.putImageData(made, 0, 0);
}

let code = null;
let waiting = false;
const ends = { a: null, b: null };

// Draws at most one picture for each frame, however fast a slider moves.
function show() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const start = performance.now();
    const pixels = decode(code, ...label());
    $("time").textContent = `${(performance.now() - start).toFixed(0)} ms`;
    paint($("picture"), pixels);
    document.body.dataset.ready = 1 + +(document.body.dataset.ready ?? 0);
  });
}

const sliders = data.shares.map((share, k) => {
  const line = document.createElement("label");
  const name = document.createElement("span");
  const value = document.createElement("output");
  const input = Object.assign(document.createElement("input"), {
    type: "range",
    min: -4,
    max: 4,
    step: 0.05,
  });
  line.className = "slider";
  name.textContent = `${k + 1} `;
  const percent = Object.assign(document.createElement("span"), { className: "soft" });
  percent.textContent = `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  name.append(percent);
  line.append(name, input, value);
  $("sliders").append(line);
  input.addEventListener("input", () => {
    const move = input.value * data.deviations[k] - along(k);
    const direction = axis(k);
    code = code.map((v, i) => v + move * direction[i]);
    value.textContent = (+input.value).toFixed(2);
    show();
  });
  return { input, value };
});

// The coordinate of the code along direction k.
function along(k) {
  const shifted = code.map((v, i) => v - mean[i]);
  return dot(axis(k), shifted);
}

// Moves the code and all sliders.
function go(to) {
  code = to;
  sliders.forEach(({ input, value }, k) => {
    input.value = along(k) / data.deviations[k];
    value.textContent = (along(k) / data.deviations[k]).toFixed(2);
  });
  show();
}

// Makes a code the end A or B.
function end(name, to) {
  ends[name] = { code: to, label: label() };
  paint($(name), decode(to, ...label()));
}

// A code on the line from A to B, scaled to a norm between those of its ends: without scaling, the
// middle of two random codes would be shorter than both.
function between(t) {
  const [a, b] = [ends.a.code, ends.b.code];
  const line = a.map((v, i) => (1 - t) * v + t * b[i]);
  const length = (v) => Math.sqrt(dot(v, v));
  const wanted = (1 - t) * length(a) + t * length(b);
  const now = length(line);
  return now > 1e-3 * wanted ? line.map((v) => (v * wanted) / now) : line;
}

$("random").addEventListener("click", () => go(draw()));
$("middle").addEventListener("click", () => go(mean.slice()));
for (const name of ["a", "b"])
  $(`to-${name}`).addEventListener("click", () => end(name, code.slice()));
$("between").addEventListener("input", () => go(between(+$("between").value)));
if (data.num_classes)
  $("label").addEventListener("input", () => {
    for (const name of ["a", "b"]) end(name, ends[name].code);
    show();
  });
let timer = null;
const stop = () => {
  clearInterval(timer);
  timer = null;
  $("play").textContent = "▶";
};
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
  const bytes = Uint8Array.from(atob(data.held_out.pixels), (letter) => letter.charCodeAt(0));
  const size = C * H * W;
  for (let i = 0; i * size < bytes.length; i++) {
    const button = Object.assign(document.createElement("button"), {
      type: "button",
      ariaLabel: `held-out picture ${i + 1}`,
    });
    const canvas = document.createElement("canvas");
    const pixels = bytes.subarray(i * size, (i + 1) * size);
    paint(
      canvas,
      Float32Array.from(pixels, (v) => v / 127.5 - 1),
    );
    button.append(canvas);
    $("held").append(button);
    button.addEventListener("click", () => {
      if (data.num_classes && data.held_out.labels) $("label").value = data.held_out.labels[i];
      go(held.slice(i * D, (i + 1) * D));
    });
  }
}

// The middle square of a picture in the model's size: (C, H, W) in [-1, 1]. Grey is the luma of
// ITU-R BT.601.
function pixelsOf(image, inverted) {
  const side = Math.min(image.width, image.height);
  const canvas = Object.assign(document.createElement("canvas"), { width: W, height: H });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, W, H);
  context.imageSmoothingQuality = "high";
  const from = [(image.width - side) / 2, (image.height - side) / 2, side, side];
  context.drawImage(image, ...from, 0, 0, W, H);
  const seen = context.getImageData(0, 0, W, H).data;
  const made = new Float32Array(C * H * W);
  for (let i = 0; i < H * W; i++) {
    const [r, g, b] = [0, 1, 2].map((c) => seen[4 * i + c] / 127.5 - 1);
    if (C === 1) made[i] = (0.299 * r + 0.587 * g + 0.114 * b) * (inverted ? -1 : 1);
    else
      [r, g, b].forEach((v, c) => {
        made[c * H * W + i] = v;
      });
  }
  return made;
}

if (encode) {
  let last = null;
  const read = async (file) => {
    if (!file) return;
    $("wrong").textContent = "";
    try {
      const image = await createImageBitmap(file);
      const pixels = pixelsOf(image, $("invert")?.checked);
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
