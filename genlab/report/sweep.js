// The page of sweep.html.j2: a table of jobs, and charts of the chosen metric.
const data = JSON.parse(document.getElementById("data").textContent), jobs = data.jobs, keys = data.keys;
const choice = document.getElementById("metric"), lower = document.getElementById("lower");
const value = (job) => { const v = choice && job.metrics[choice.value]; return typeof v === "number" ? v : null; };
let sorted = null, down = false;
function pick(i) {
  for (const one of document.querySelectorAll("[data-job]")) one.classList.toggle("picked", +one.dataset.job === i);
}
// Whether it is known which way the metric is better: declared by it, or chosen on the page.
const directed = () => !lower.indeterminate;
function colour(i) {  // the best job's in full, the worst job's pale; without a direction the highest in full
  const known = jobs.map(value).filter((v) => v !== null), v = value(jobs[i]);
  if (v === null) return "var(--line)";
  const low = Math.min(...known), fraction = (v - low) / (Math.max(...known) - low || 1);
  const good = directed() && lower.checked ? 1 - fraction : fraction;
  return `color-mix(in oklab, var(--c0) ${Math.round(15 + 85 * good)}%, var(--line))`;
}
function cells(job) {
  return { job: job.number, ...Object.fromEntries(keys.map((key) => [key, job.parameters[key] ?? ""])), status: job.status,
    ...(choice ? { [choice.value]: value(job) } : {}), seconds: job.seconds, error: job.error };
}
function table() {
  const rows = jobs.map((job, i) => ({ job, i, cells: cells(job) })), names = Object.keys(rows[0].cells);
  const by = names.includes(sorted) ? sorted : "job", empty = (v) => v === null || v === "" || v === undefined;
  rows.sort((a, b) => {
    const [x, y] = [a.cells[by], b.cells[by]];
    if (empty(x) || empty(y)) return empty(x) - empty(y);
    const order = isNaN(x) || isNaN(y) ? String(x).localeCompare(String(y)) : x - y;
    return down ? -order : order;
  });
  const head = document.querySelector("#jobs thead tr"), body = document.querySelector("#jobs tbody");
  const focused = document.activeElement.dataset && document.activeElement.dataset.name;
  head.replaceChildren(...names.map((name) => {
    const cell = document.createElement("th"), button = document.createElement("button");
    button.textContent = name + (name === by ? (down ? " ▼" : " ▲") : "");
    button.dataset.name = name;
    button.onclick = () => { down = name === by && !down; sorted = name; table(); };
    cell.setAttribute("aria-sort", name === by ? (down ? "descending" : "ascending") : "none");
    cell.append(button);
    return cell;
  }));
  body.replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    line.dataset.job = row.i;
    line.onpointerenter = () => pick(row.i);
    for (const name of names) {
      const cell = document.createElement("td"), v = row.cells[name];
      cell.textContent = v === null || v === undefined ? "" : short(v);
      if (typeof v === "number" && name !== "job") cell.className = "number";
      if (name === "status") cell.className = "status-" + v;
      if (name === "error") Object.assign(cell.style, { whiteSpace: "normal", minWidth: v ? "18rem" : "" });
      if (name === "job" && row.job.report) {
        const link = document.createElement("a");
        link.href = row.job.report;
        link.textContent = row.job.number;
        link.onfocus = () => pick(row.i);
        cell.replaceChildren(link);
      }
      line.append(cell);
    }
    return line;
  }));
  if (focused) document.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
}
function draw() {
  table();
  const shown = jobs.map((job, i) => i).filter((i) => value(jobs[i]) !== null), drawn = document.getElementById("drawn");
  drawn.hidden = !choice || !keys.length || !shown.length;
  if (!choice) return;
  const order = [...shown].sort((a, b) => (lower.checked ? 1 : -1) * (value(jobs[a]) - value(jobs[b])));
  document.getElementById("best").textContent = !order.length ? ""
    : !directed() ? "no best job: say whether lower is better"
    : `best: job ${jobs[order[0]].number} with ${short(value(jobs[order[0]]))}`;
  if (drawn.hidden) return;
  const real = (k) => shown[k], at = document.getElementById("parallel"), strips = document.getElementById("strips");
  at.replaceChildren();
  parallel(at, [...keys, choice.value], shown.map((i) => [...keys.map((key) => jobs[i].parameters[key]), value(jobs[i])]), (k) => colour(real(k)), (k) => pick(real(k)));
  strips.replaceChildren();
  for (const key of keys) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = `${choice.value} against ${key}`;
    figure.append(caption);
    strips.append(figure);
    strip(figure, key, shown.map((i) => jobs[i].parameters[key]), shown.map((i) => value(jobs[i])), (k) => colour(real(k)), (k) => pick(real(k)));
  }
  for (const one of drawn.querySelectorAll("[data-job]")) one.dataset.job = real(+one.dataset.job);
}
function direct() {
  const higher = data.higher_is_better[choice.value];
  lower.checked = higher === false;
  lower.indeterminate = higher === null;
}
if (choice) {
  direct();
  choice.onchange = () => { direct(); draw(); };
  lower.onchange = draw;
  sorted = choice.value;
  down = !lower.checked;
}
draw();
