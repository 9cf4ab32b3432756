// Line charts, strip plots and parallel coordinates as SVG, drawn from the numbers in the page.
const NS = "http://www.w3.org/2000/svg";

// A new SVG element.
function node(name, attributes = {}, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// A number as a short text.
function short(value) {
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size >= 1e4)
    return size >= 1e6 ? +(value / 1e6).toPrecision(3) + "M" : +(value / 1e3).toPrecision(4) + "k";
  if (size && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(+value.toPrecision(4));
}

// About `count` round numbers between low and high.
function ticks(low, high, count = 4) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((s) => s * power >= raw) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++)
    found.push(i * step);
  return found;
}

// A scale that maps values to [from, to] and has tick marks. Numbers are placed by value, on a
// logarithmic scale if they span two decades or more; other values are placed in sorted order.
function scale(values, from, to) {
  const known = values.filter((v) => v !== null && v !== undefined && v !== "");
  const numbers = known.map(Number);
  if (known.length && numbers.every(Number.isFinite)) {
    let low = Math.min(...numbers);
    let high = Math.max(...numbers);
    const log = low > 0 && high / low >= 100;
    const f = log ? Math.log10 : (v) => v;
    if (low === high) {
      low -= Math.abs(low) / 2 || 1;
      high += Math.abs(high) / 2 || 1;
    }
    const at = (v) => from + ((f(Number(v)) - f(low)) / (f(high) - f(low))) * (to - from);
    let marks = ticks(low, high);
    if (log) marks = ticks(Math.log10(low), Math.log10(high)).map((v) => 10 ** v);
    return { at, marks: new Set(numbers).size <= 4 ? [...new Set(numbers)] : marks };
  }
  const names = [...new Set(known.map(String))].sort();
  const at = (v) =>
    names.length < 2
      ? (from + to) / 2
      : from + ((names.indexOf(String(v)) + 0.25) / (names.length - 0.5)) * (to - from);
  return { at, marks: names };
}

// A line for each series {name, points: [[x, y], ...]}, with a legend that shows the values at the
// pointer.
function lineChart(holder, series, label = "step") {
  const W = 460;
  const H = 240;
  const L = 52;
  const R = 10;
  const T = 10;
  const B = 32;
  const xs = series.flatMap((s) => s.points.map((p) => p[0]));
  const ys = series.flatMap((s) => s.points.map((p) => p[1]));
  let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  if (x0 === x1) {
    x0 -= 1;
    x1 += 1;
  }
  if (y0 === y1) {
    y0 -= Math.abs(y0) / 10 || 1;
    y1 += Math.abs(y1) / 10 || 1;
  }
  const X = (v) => L + ((v - x0) / (x1 - x0)) * (W - L - R);
  const Y = (v) => H - B - ((v - y0) / (y1 - y0)) * (H - T - B);
  const svg = node("svg", {
    viewBox: `0 0 ${W} ${H}`,
    role: "img",
    "aria-label": `${series.map((s) => s.name).join(", ")} by ${label}`,
  });
  for (const v of ticks(y0, y1)) {
    svg.append(node("line", { x1: L, x2: W - R, y1: Y(v), y2: Y(v), class: "rule" }));
    svg.append(node("text", { x: L - 6, y: Y(v) + 4, "text-anchor": "end" }, short(v)));
  }
  for (const v of ticks(x0, x1, 5))
    svg.append(node("text", { x: X(v), y: H - B + 16, "text-anchor": "middle" }, short(v)));
  svg.append(node("text", { x: W - R, y: H - 3, "text-anchor": "end", class: "soft" }, label));
  series.forEach((s, i) => {
    const line = s.points.map((p) => `${X(p[0]).toFixed(1)},${Y(p[1]).toFixed(1)}`).join(" ");
    svg.append(node("polyline", { points: line, class: `line c${i % 6}` }));
    if (s.points.length < 20)
      for (const p of s.points)
        svg.append(node("circle", { cx: X(p[0]), cy: Y(p[1]), r: 2.5, class: `dot c${i % 6}` }));
  });
  const cursor = node("line", { y1: T, y2: H - B, class: "cursor", visibility: "hidden" });
  svg.append(cursor);
  holder.append(svg);
  const legend = document.createElement("div");
  legend.className = "legend";
  const values = series.map((s, i) => {
    const entry = document.createElement("span");
    entry.append(
      Object.assign(document.createElement("i"), { className: `c${i % 6}` }),
      s.name + " ",
    );
    const value = document.createElement("b");
    entry.append(value);
    legend.append(entry);
    return value;
  });
  const where = document.createElement("span");
  where.className = "soft";
  legend.append(where);
  holder.append(legend);
  const show = (x) => {
    series.forEach((s, i) => {
      let best = s.points[s.points.length - 1];
      if (x !== null)
        for (const p of s.points) if (Math.abs(p[0] - x) < Math.abs(best[0] - x)) best = p;
      values[i].textContent = short(best[1]);
    });
    where.textContent = x === null ? "" : `${label} ${Math.round(x)}`;
    cursor.setAttribute("visibility", x === null ? "hidden" : "visible");
    if (x !== null) for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(x));
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * W;
    show(Math.max(x0, Math.min(x1, x0 + ((at - L) / (W - L - R)) * (x1 - x0))));
  });
  svg.addEventListener("pointerleave", () => show(null));
  show(null);
}

// A dot for each job: its metric against the swept key. pick(i) is called when the pointer enters
// dot i.
function strip(holder, key, xs, ys, colour, pick) {
  const W = 460;
  const H = 240;
  const L = 52;
  const R = 14;
  const T = 10;
  const B = 32;
  const sx = scale(xs, L + 8, W - R - 8);
  const sy = scale(ys, H - B - 6, T + 6);
  const svg = node("svg", {
    viewBox: `0 0 ${W} ${H}`,
    role: "img",
    "aria-label": `against ${key}`,
  });
  for (const v of sy.marks) {
    svg.append(node("line", { x1: L, x2: W - R, y1: sy.at(v), y2: sy.at(v), class: "rule" }));
    svg.append(node("text", { x: L - 6, y: sy.at(v) + 4, "text-anchor": "end" }, short(v)));
  }
  for (const v of sx.marks)
    svg.append(node("text", { x: sx.at(v), y: H - B + 16, "text-anchor": "middle" }, short(v)));
  svg.append(node("text", { x: W - R, y: H - 3, "text-anchor": "end", class: "soft" }, key));
  xs.forEach((x, i) => {
    if (ys[i] === null || x === undefined) return;
    const dot = node("circle", {
      cx: sx.at(x),
      cy: sy.at(ys[i]),
      r: 4.5,
      class: "job",
      "data-job": i,
      fill: colour(i),
    });
    dot.addEventListener("pointerenter", () => pick(i));
    svg.append(dot);
  });
  holder.append(svg);
}

// A line for each job through one axis for each key.
function parallel(holder, keys, rows, colour, pick) {
  const W = Math.max(460, 150 * keys.length);
  const H = 280;
  const T = 30;
  const B = 16;
  const X = (k) => 60 + (k / Math.max(1, keys.length - 1)) * (W - 120);
  const svg = node("svg", {
    viewBox: `0 0 ${W} ${H}`,
    role: "img",
    "aria-label": "parallel coordinates of " + keys.join(", "),
  });
  Object.assign(svg.style, { minWidth: `${W}px`, maxWidth: `${1.2 * W}px` });
  const scales = keys.map((_, k) =>
    scale(
      rows.map((row) => row[k]),
      H - B,
      T,
    ),
  );
  rows.forEach((row, i) => {
    const points = row.map((v, k) =>
      v === null || v === undefined || v === "" ? null : `${X(k)},${scales[k].at(v).toFixed(1)}`,
    );
    if (points.some((p) => p === null)) return;
    const line = node("polyline", {
      points: points.join(" "),
      class: "job",
      "data-job": i,
      stroke: colour(i),
    });
    line.addEventListener("pointerenter", () => pick(i));
    svg.append(line);
  });
  keys.forEach((key, k) => {
    svg.append(node("line", { x1: X(k), x2: X(k), y1: T, y2: H - B, class: "axis" }));
    svg.append(node("text", { x: X(k), y: 14, "text-anchor": "middle", class: "name" }, key));
    const last = k === keys.length - 1;
    for (const v of scales[k].marks)
      svg.append(
        node(
          "text",
          {
            x: X(k) + (last ? 6 : -6),
            y: scales[k].at(v) + 4,
            "text-anchor": last ? "start" : "end",
            class: "halo",
          },
          short(v),
        ),
      );
  });
  holder.append(svg);
}
