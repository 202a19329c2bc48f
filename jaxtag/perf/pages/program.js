const ROWS = 400, { events } = data, total = data.schedule.seconds;
const kernels = events.filter(e => e.lane === "kernel"), collectives = events.filter(e => e.lane === "collective");
const all = e => e.seconds * e.runs, sum = (rows, value) => rows.reduce((s, row) => s + value(row), 0);
const allRuns = row => row.members ? sum(row.members, all) : all(row), ran = sum(kernels, all);

function showHead() {
  const { bound, mesh, memory_bytes_per_device: memory } = data;
  document.title = `Program: ${data.title}`;
  place("title").textContent = data.title;
  place("subtitle").textContent = `${data.devices} × ${data.topology}${data.slices > 1 ? ` in ${data.slices} slices` : ""}, ` +
    Object.entries(mesh).map(([axis, size]) => `${axis} ${size}`).join(" × ") + `, batch ${data.batch_size}`;
  for (const [value, text] of [
    [ms(total), "a step at least, as scheduled"],
    [(data.batch_size / total).toLocaleString("en", { maximumFractionDigits: 0 }), "images/s at most"],
    [percent(bound.seconds_by_resource.arithmetic / total), "of it arithmetic at the peak (MFU at most)"],
    [percent(data.schedule.waited_seconds / total), "of it waiting for collectives"],
    [`${size(memory.peak)}`, `of ${size(memory.capacity)}: ${data.fits ? "fits" : "does not fit"}`],
  ]) {
    const tile = element("div", null, { className: "tile" });
    tile.append(element("b", value), element("span", text));
    place("tiles").append(tile);
  }
}

function showBounds() {
  const rows = Object.entries(data.bound.seconds_by_resource).map(([name, seconds]) => ({ name: name.replaceAll("_", " "), seconds }));
  rows.push({ name: "as scheduled", seconds: total });
  place("bounds").append(table([
    ["resource", r => r.name],
    ["", r => r.seconds === null ? "" : bar([["device", r.seconds]], total)],
    ["time", r => r.seconds === null ? "unknown" : ms(r.seconds), r => r.seconds],
  ], rows), element("p", `Peaks: ${data.bound.peaks.source}`, { className: "soft" }));
}

function showTimeline() {
  const [width, left, top, height, gap] = [1160, 90, 18, 44, 14];
  const span = total / Number(place("zoom").value), begin = (total - span) * Number(place("from").value) / 1000;
  const x = t => left + (t - begin) / span * (width - left);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${top + 2 * height + gap + 24}`, role: "img", "aria-label": "timeline" });
  const defs = shape("defs", {}), hatch = shape("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  hatch.append(shape("rect", { width: 2, height: 6, fill: "var(--data)" }));
  defs.append(hatch);
  svg.append(defs);
  for (let n = 0; n <= 8; n++) {
    const at = begin + span * n / 8;
    svg.append(shape("line", { class: "grid", x1: x(at), x2: x(at), y1: top - 4, y2: top + 2 * height + gap }),
      shape("text", { x: Math.min(x(at), width - 24), y: 10, "text-anchor": n ? "middle" : "start" }, ms(at)));
  }
  ["kernels", "links"].forEach((lane, index) => svg.append(shape("text", { x: 0, y: top + index * (height + gap) + height / 2 + 4 }, lane)));
  const draw = (start, seconds, lane, fill, text) => {
    const from = Math.max(x(start), left), to = Math.min(x(start + seconds), width);
    if (to < left || from > width || to <= from) return;
    const box = shape("rect", { x: from, y: top + lane * (height + gap), width: Math.max(to - from, 0.4), height, fill });
    box.append(shape("title", {}, text));
    svg.append(box);
  };
  for (const e of events) {
    const text = `${e.name} (${e.opcode})\n${e.part ?? "(unknown)"} ${e.phase}\n${ms(e.seconds)}${e.runs > 1 ? `, ${e.runs} runs` : ""}\n${e.line}`;
    if (e.lane === "loop") draw(e.start, e.seconds, 0, "var(--line)", `further runs of the loop ${e.name}\n${ms(e.seconds)}`);
    else if (e.lane === "kernel") draw(e.start, e.seconds, 0, `var(--${e.phase || "other"})`, text);
    else {
      draw(e.start, e.seconds, 1, "var(--host)", `${text}\n${size(e.bytes)} leave the device`);
      if (e.waited) draw(e.start + e.seconds - e.waited, e.waited, 0, "url(#hatch)", `waits ${ms(e.waited)} for ${text}`);
    }
  }
  const legend = element("div", null, { className: "legend" });
  for (const [color, text] of [["forward", "forward"], ["backward", "backward"], ["again", "forward, computed again"], ["other", "other"], ["host", "collective"], ["line", "further runs of a loop"]]) legend.append(key(color, text));
  place("timeline").replaceChildren(svg, legend);
}

function showCollectives() {
  place("collectives").append(collectives.length ? table([
    ["instruction", e => e.name],
    ["kind", e => e.opcode],
    ["part", e => e.part ?? "(unknown)"],
    ["phase", e => e.phase],
    ["made by", e => e.line],
    ["sent", e => size(e.bytes), e => e.bytes],
    ["runs", e => e.runs, e => e.runs],
    ["time, all runs", e => ms(all(e)), all],
    ["kernels wait", e => ms(e.waited * e.runs), e => e.waited * e.runs],
  ], [...collectives].sort((a, b) => b.waited * b.runs - a.waited * a.runs || all(b) - all(a)).slice(0, ROWS)) : "none");
}

function showKernels(rows, order = (a, b) => allRuns(b) - allRuns(a)) {
  const columns = [
    ["kernel", k => k.name ?? "kernels"],
    ["part", k => k.part ?? "(unknown)"],
    ["phase", k => k.phase],
    ["made by", k => k.line],
    ["opcode", k => k.opcode],
    ["time, all runs", k => ms(allRuns(k)), allRuns],
    ["share", k => percent(allRuns(k) / ran), allRuns],
    ["GFLOP a run", k => giga(k.flops), k => k.flops],
    ["traffic a run", k => size(k.bytes), k => k.bytes],
    ["runs", k => k.runs.toLocaleString("en"), k => k.runs],
  ];
  const label = k => `${k.part ?? "(unknown)"} ${k.phase} ${k.opcode}`;
  const shown = place("fold").checked ? folded(rows, label, ["seconds", "flops", "bytes", "runs"]) : rows;
  const sorted = ([, text, number]) => showKernels(rows,
    number ? (a, b) => number(b) - number(a) : (a, b) => String(text(a)).localeCompare(String(text(b))));
  place("kernels").replaceChildren(table(columns, [...shown].sort(order).slice(0, ROWS), sorted));
  place("count").textContent = `${rows.length} of ${kernels.length} kernels, ${percent(sum(rows, all) / ran)} of their time`;
}

function find() {
  const words = place("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  showKernels(kernels.filter(k => {
    const text = `${k.name} ${k.part ?? "(unknown)"} ${k.phase} ${k.line} ${k.opcode}`.toLowerCase();
    return words.every(word => text.includes(word));
  }));
}

showHead(); showBounds(); showTimeline(); showCollectives(); showKernels(kernels);
place("memory").append(table([["kind", r => r[0]], ["size", r => size(r[1]), r => r[1]]], Object.entries(data.memory_bytes_per_device)));
place("config").textContent = JSON.stringify(data.config, null, 2);
place("search").addEventListener("input", find);
place("fold").addEventListener("change", find);
for (const id of ["zoom", "from"]) place(id).addEventListener("input", showTimeline);
