const profile = data;
const PHASES = ["forward", "backward", "again", "other"], ROWS = 400;
const { step, costs, kernels } = profile;
const ran = kernels.reduce((sum, k) => sum + k.seconds, 0);
const times = k => k.least ? k.seconds / k.least : Infinity;

function showHead() {
  const { device, versions } = profile;
  document.title = `Profile: ${profile.title}`;
  place("title").textContent = profile.title;
  place("subtitle").textContent = `${device.count} × ${device.kind}, ${profile.dtype}, JAX ${versions.jax}, ` +
    `jaxtag ${versions.jaxtag}, ${profile.date}`;
  const planned = profile.memory.planned;
  for (const [value, text] of [
    [ms(step.seconds), `a step of ${step.batch_size} images`],
    [step.images_per_second.toLocaleString("en", { maximumFractionDigits: 1 }), "images/s"],
    [percent(costs.mfu), `MFU of ${giga(costs.peak.flops)} GFLOP/s a device`],
    [percent(costs.bandwidth_share), `of ${giga(costs.peak.bandwidth)} GB/s to memory`],
    [size(planned.peak), "peak memory, as planned"],
  ]) {
    const tile = element("div", null, { className: "tile" });
    tile.append(element("b", value), element("span", text));
    place("tiles").append(tile);
  }
}

function showStep() {
  const pieces = ["data", "host", "device", "checkpoint"].map(name => [name, step[name]]);
  const notes = { data: "waiting for data", host: "host", device: "device", checkpoint: "checkpoint" };
  const legend = element("div", null, { className: "legend" });
  for (const [name, value] of pieces) legend.append(key(name, `${notes[name]} ${ms(value)} (${percent(value / step.seconds)})`));
  place("step").append(bar(pieces, step.seconds), legend,
    element("p", `Over ${step.each.length} steps of ${ms(Math.min(...step.each))} to ${ms(Math.max(...step.each))}. ` +
      `Recorded by the profiler a step took ${ms(step.traced)}; kernels ran in ${percent(ran / step.traced_device)} of its device time. ` +
      `A save blocks the loop for ${ms(step.save.blocked)}, every ${step.save.every} steps.`, { className: "soft" }),
    element("p", `FLOPs of a step and device: ${giga(costs.flops.analytic)} G analytic (multiply-adds of convolutions and products, forward and backward), ` +
      `${giga(costs.flops.xla)} G by XLA's cost analysis. Peaks: ${costs.peak.source}.`, { className: "soft" }));
}

function showParts() {
  const whole = Math.max(...profile.parts.map(p => p.seconds));
  const legend = element("div", null, { className: "legend" });
  for (const phase of PHASES) legend.append(key(phase, phase === "again" ? "forward, computed again" : phase));
  place("parts").append(table([
    ["part", p => p.part ?? "(unknown)"],
    ["", p => bar(PHASES.map(phase => [phase, p[phase]]), whole)],
    ["time", p => ms(p.seconds), p => p.seconds],
    ["share", p => percent(p.seconds / ran), p => p.seconds],
    ["at the peak", p => ms(p.least), p => p.least],
    ["GFLOP", p => giga(p.flops), p => p.flops],
    ["traffic", p => size(p.bytes), p => p.bytes],
  ], folded(profile.parts, p => p.part ?? "(unknown)", [...PHASES, "seconds", "least", "flops", "bytes"])), legend);
}

function choose(name) {
  place("search").value = "";
  place("fold").checked = false;
  showKernels(kernels);
  for (const chosen of document.querySelectorAll(".chosen")) chosen.classList.remove("chosen");
  for (const item of document.querySelectorAll(`[data-name="${CSS.escape(name)}"]`)) {
    item.classList.add("chosen");
    if (item.tagName === "TR") item.scrollIntoView({ block: "center", behavior: "smooth" });
  }
}

function showRoofline() {
  const [width, height, left, right, top, bottom] = [1160, 460, 74, 20, 14, 44];
  const { flops, bandwidth } = costs.peak, log = Math.log10;
  const shown = kernels.filter(k => k.flops && k.bytes && k.seconds);
  const x = k => k.flops / k.bytes, y = k => k.flops / k.seconds;
  const ridge = flops / bandwidth;
  const range = values => [Math.floor(log(Math.min(...values))), Math.ceil(log(Math.max(...values)))];
  const [low, high] = range([...shown.map(x), ridge * 10, 0.1]);
  const [slow, fast] = range([...shown.map(y).filter(v => v > flops / 1e6), flops * 2, flops / 100]);
  const across = v => left + (log(v) - low) / (high - low) * (width - left - right);
  const up = v => height - bottom - (Math.max(log(v), slow) - slow) / (fast - slow) * (height - top - bottom);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "roofline" });
  for (let n = low; n <= high; n++) {
    svg.append(shape("line", { class: "grid", x1: across(10 ** n), x2: across(10 ** n), y1: top, y2: height - bottom }),
      shape("text", { x: across(10 ** n), y: height - bottom + 16, "text-anchor": "middle" }, Number(`1e${n}`).toLocaleString("en", { maximumSignificantDigits: 1 })));
  }
  for (let n = slow; n <= fast; n++) {
    svg.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: up(10 ** n), y2: up(10 ** n) }),
      shape("text", { x: left - 8, y: up(10 ** n) + 4, "text-anchor": "end" }, `${Number(`1e${n - 9}`).toLocaleString("en", { maximumSignificantDigits: 1 })} G`));
  }
  svg.append(shape("text", { x: (left + width) / 2, y: height - 8, "text-anchor": "middle" }, "FLOPs for each byte of memory traffic"),
    shape("text", { x: 14, y: height / 2, transform: `rotate(-90 14 ${height / 2})`, "text-anchor": "middle" }, "FLOP/s"));
  const from = Math.max(10 ** low, 10 ** slow / bandwidth);
  svg.append(shape("path", { class: "roof", d: `M${across(from)} ${up(from * bandwidth)}L${across(ridge)} ${up(flops)}H${width - right}` }));
  const longest = Math.max(...shown.map(k => k.seconds));
  for (const k of shown) {
    const dot = shape("circle", { cx: across(x(k)), cy: up(y(k)), r: 3 + 19 * Math.sqrt(k.seconds / longest), "data-name": k.name });
    dot.style.fill = `var(--${k.phase || "other"})`;
    dot.append(shape("title", {}, `${k.name}\n${k.part ?? "(unknown)"} ${k.phase}\n${ms(k.seconds)}, ${times(k).toFixed(1)} times as long as at the peak\n${k.line}`));
    dot.addEventListener("click", () => choose(k.name));
    svg.append(dot);
  }
  place("roofline").append(svg);
}

function showKernels(rows) {
  const columns = [
    ["kernel", k => k.name ?? "kernels"],
    ["part", k => k.part ?? "(unknown)"],
    ["phase", k => k.phase],
    ["made by", k => k.line],
    ["time", k => ms(k.seconds), k => k.seconds],
    ["share", k => percent(k.seconds / ran), k => k.seconds],
    ["at the peak", k => ms(k.least), k => k.least],
    ["× longer", k => k.least ? times(k).toFixed(1) : "", times],
    ["", k => k.note ?? ""],
    ["bound by", k => k.bound],
    ["GFLOP", k => giga(k.flops), k => k.flops],
    ["traffic", k => size(k.bytes), k => k.bytes],
    ["runs", k => k.runs.toLocaleString("en"), k => k.runs],
    ["result", k => k.shape.split("{")[0]],
  ];
  const sorted = ([, text, number]) => showKernels([...rows].sort(
    number ? (a, b) => number(b) - number(a) : (a, b) => String(text(a)).localeCompare(String(text(b)))));
  const label = k => `${k.part ?? "(unknown)"} ${k.phase} ${k.opcode}`;
  const shown = place("fold").checked ? folded(rows, label, ["seconds", "least", "flops", "bytes", "runs"]) : rows;
  place("kernels").replaceChildren(table(columns, shown.slice(0, ROWS), sorted));
  const taken = rows.reduce((sum, k) => sum + k.seconds, 0);
  place("count").textContent = `${rows.length} of ${kernels.length} kernels, ${percent(taken / ran)} of their time`;
}

function showMemory() {
  const { planned, in_use, largest } = profile.memory;
  const rows = [...Object.entries(planned), ...Object.entries(in_use).map(([name, bytes]) => [`in use: ${name}`, bytes])];
  place("memory").append(
    table([["kind", r => r[0]], ["size", r => size(r[1]), r => r[1]]], rows),
    element("h2", "Largest buffers that kernels write"),
    table([["buffer", b => b.name], ["part", b => b.part ?? "(unknown)"], ["phase", b => b.phase], ["made by", b => b.line],
      ["size", b => size(b.bytes), b => b.bytes], ["shape", b => b.shape.split("{")[0]]], largest));
}

function showCompilation() {
  const { trace_seconds, compile_seconds, recompilations } = profile.compilation, to = place("compilation");
  to.append(element("p", `Traced in ${trace_seconds.toFixed(1)} s, compiled in ${compile_seconds.toFixed(1)} s (less where the program was in the cache).`));
  if (!recompilations.length) to.append(element("p", "No recompilations while it was measured."));
  for (const again of recompilations) {
    const list = element("ul");
    for (const change of again.changes) list.append(element("li", change));
    to.append(element("p", `Compiled again in call ${again.call}, ${again.seconds.toFixed(1)} s, since`), list);
  }
}

showHead(); showStep(); showParts(); showRoofline(); showKernels(kernels); showMemory(); showCompilation();
place("config").textContent = JSON.stringify(profile.config, null, 2);
function find() {
  const words = place("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  showKernels(kernels.filter(k => {
    const text = `${k.name} ${k.part ?? "(unknown)"} ${k.phase} ${k.line} ${k.opcode} ${k.bound}`.toLowerCase();
    return words.every(word => text.includes(word));
  }));
}
place("search").addEventListener("input", find);
place("fold").addEventListener("change", find);
