"use strict";
// Draws the page from its data. State is one object, `state`; every change goes through `go`, which draws what changed and keeps the
// address's hash up to date: #s=3&l=2&h=5&t=4 is sentence 3, layer 2, head 5, links of token 4 kept, all counted from 1.
(() => {
  const $ = id => document.getElementById(id);
  const data = JSON.parse($("attention-data").textContent);
  const state = { sentence: 0, layer: 0, head: 0, kept: null };
  // Under the pointer or the keyboard: a token of the links, a cell of the map.
  let token = null, cell = null;

  // ---- weights -------------------------------------------------------------------------------------------------------------
  const decoded = new Map();
  /** All weights of a sentence, [layer][head][i][j], from their 24-bit fixed point. */
  function weightsOf(index) {
    if (!decoded.has(index)) {
      const bytes = atob(data.sentences[index].weights);
      const values = new Float64Array(bytes.length / 3);
      for (let i = 0, at = 0; i < values.length; i++, at += 3)
        values[i] = (bytes.charCodeAt(at) << 16 | bytes.charCodeAt(at + 1) << 8 | bytes.charCodeAt(at + 2)) / 0xffffff;
      decoded.set(index, values);
    }
    return decoded.get(index);
  }
  const tokens = () => data.sentences[state.sentence].tokens;
  /** The weights of one head: n·n of them, row i reads column j. */
  function headWeights(layer, head) {
    const n = tokens().length, start = (layer * data.heads + head) * n * n;
    return weightsOf(state.sentence).subarray(start, start + n * n);
  }
  const current = () => headWeights(state.layer, state.head);
  const special = text => text === "[CLS]" || text === "[SEP]";
  /** Four digits of a weight, as far as its 24 bits carry them. */
  const shown = weight => weight === 0 ? "0" : weight < 1e-6 ? "< 0.000001" : weight < 0.001 ? weight.toFixed(6) : weight.toPrecision(4);
  const pair = (i, j) => `${tokens()[i]} → ${tokens()[j]}`;

  // ---- colours -------------------------------------------------------------------------------------------------------------
  const RAMPS = {
    light: [[251, 250, 246], [213, 226, 240], [124, 168, 214], [38, 92, 158], [9, 32, 74]],
    dark: [[25, 28, 34], [27, 51, 82], [37, 100, 164], [108, 176, 232], [230, 244, 255]],
  };
  const media = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => document.documentElement.dataset.theme || (media.matches ? "dark" : "light");
  let ramp = [];
  /** 256 colours from weight 0 to 1, by the square root, so that small weights show. */
  function makeRamp() {
    const stops = RAMPS[theme()];
    ramp = Array.from({ length: 256 }, (_, k) => {
      const at = Math.sqrt(k / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
      return stops[low].map((from, c) => Math.round(from + (stops[low + 1][c] - from) * (at - low)));
    });
  }
  const colour = weight => ramp[Math.round(weight * 255)];
  function paint(canvas, width, height, weights) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    weights.forEach((weight, k) => image.data.set([...colour(weight), 255], 4 * k));
    context.putImageData(image, 0, 0);
  }

  // ---- small builders ------------------------------------------------------------------------------------------------------
  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }
  function svg(name, attributes = {}, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  }
  function meter(share) {
    const fill = make("i");
    fill.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
    return make("div", { class: "meter" }, fill);
  }

  // ---- sentences -----------------------------------------------------------------------------------------------------------
  function drawSentences() {
    const options = data.sentences.map((sentence, index) => {
      const isQuery = sentence.similarity === null;
      const near = isQuery ? "query" : `${sentence.similarity.toFixed(3)} · #${sentence.rank}`;
      const option = make("div", { class: "sentence", role: "option", tabindex: "-1" },
        make("span", { class: "text" }, sentence.text), make("span", { class: "near" }, near));
      if (!isQuery) option.append(meter(sentence.similarity));
      option.title = sentence.text;
      option.onclick = () => go({ sentence: index });
      return option;
    });
    $("sentences").replaceChildren(...options);
  }
  function markSentence() {
    [...$("sentences").children].forEach((option, index) => {
      option.setAttribute("aria-selected", index === state.sentence);
      option.tabIndex = index === state.sentence ? 0 : -1;
      if (index === state.sentence) option.scrollIntoView({ block: "nearest" });
    });
  }

  // ---- all heads, and the picked one in words ------------------------------------------------------------------------------
  function drawGrid() {
    const columns = `3.4rem repeat(${data.heads}, 33px)`;
    $("heads-axis").style.gridTemplateColumns = columns;
    const numbers = Array.from({ length: data.heads }, (_, head) => make("span", {}, `${head + 1}`));
    $("heads-axis").replaceChildren(make("span", { class: "rowname" }, "head"), ...numbers);
    const rows = Array.from({ length: data.layers }, (_, layer) => {
      const row = make("div", { role: "row" }, make("span", { class: "rowname", role: "rowheader" }, layer ? `${layer + 1}` : "layer 1"));
      row.style.display = "contents";
      for (let head = 0; head < data.heads; head++) {
        const name = `layer ${layer + 1}, head ${head + 1}`;
        const button = make("button", { class: "head", type: "button", role: "gridcell", "aria-label": name, title: name }, make("canvas"));
        button.onclick = () => go({ layer, head });
        row.append(button);
      }
      return row;
    });
    $("grid").style.gridTemplateColumns = columns;
    $("grid").replaceChildren(...rows);
  }
  const headButtons = () => [...$("grid").querySelectorAll(".head")];
  function drawThumbnails() {
    const n = tokens().length;
    headButtons().forEach((button, k) => {
      paint(button.firstChild, n, n, headWeights(Math.floor(k / data.heads), k % data.heads));
      button.firstChild.style.imageRendering = n > 33 ? "auto" : "pixelated";
    });
  }
  function markHead() {
    headButtons().forEach((button, k) => {
      const picked = k === state.layer * data.heads + state.head;
      button.setAttribute("aria-selected", picked);
      button.tabIndex = picked ? 0 : -1;
    });
    $("picked-title").textContent = `Layer ${state.layer + 1}, head ${state.head + 1}`;
    drawPattern();
  }
  /** Where the weight of an average token goes. */
  function drawPattern() {
    const n = tokens().length, weights = current();
    const shares = { "[CLS]": 0, "[SEP]": 0, "the token before": 0, "itself": 0, "the token after": 0, "elsewhere": 0 };
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        const text = tokens()[j], step = j - i;
        const kind = special(text) && step ? text
          : step === 0 ? "itself" : step === -1 ? "the token before" : step === 1 ? "the token after" : "elsewhere";
        shares[kind] += weights[i * n + j] / n;
      }
    $("pattern").replaceChildren(...Object.entries(shares).flatMap(([kind, share]) =>
      [make("dt", {}, kind), meter(share), make("dd", {}, `${(100 * share).toFixed(0)} %`)]));
  }

  /** The layer and head whose tokens read one other word the most, neighbours aside: a good one to begin with. */
  function mostTelling() {
    const n = tokens().length, words = tokens().map(text => !special(text) && /[\p{L}\p{N}]/u.test(text));
    const far = (i, j) => Math.abs(i - j) > 1 && words[i] && words[j];
    let best = [-1, 0, 0];
    for (let layer = 0; layer < data.layers; layer++)
      for (let head = 0; head < data.heads; head++) {
        let sum = 0;
        headWeights(layer, head).forEach((weight, k) => { if (far(Math.floor(k / n), k % n)) sum += weight * weight; });
        if (sum > best[0]) best = [sum, layer, head];
      }
    return best.slice(1);
  }

  // ---- links ---------------------------------------------------------------------------------------------------------------
  // Room for a value at either edge, and the most links that are drawn at once, the strongest.
  const GUTTER = 44, MOST = 1500;
  /** Height of a token: short sentences spread a little. */
  const rowHeight = () => Math.max(25, Math.min(36, 430 / tokens().length));
  const measure = make("canvas").getContext("2d");
  const clip = (text, length) => text.length > length ? `${text.slice(0, length - 1)}…` : text;
  /** The token whose links alone are shown: { side: "reads" | "read", index }, or null for all links. */
  const chosen = () => token || (state.kept === null ? null : { side: "reads", index: state.kept });
  function drawLinks() {
    const picture = $("links"), n = tokens().length, width = Math.max(picture.parentElement.clientWidth, 280);
    measure.font = `650 13px ${getComputedStyle(document.body).fontFamily}`;
    const widest = Math.max(...tokens().map(text => measure.measureText(clip(text, 16)).width));
    const row = rowHeight(), column = Math.min(widest + 20, width / 3 - GUTTER);
    picture.setAttribute("viewBox", `0 0 ${width} ${n * row}`);
    picture.setAttribute("height", n * row);
    const lines = svg("g", { id: "lines" });
    const sides = ["reads", "read"].map(side => {
      const group = svg("g", { class: side });
      tokens().forEach((text, index) => {
        const left = side === "reads", y = (index + 0.5) * row;
        const item = svg("g", { class: special(text) ? "token special" : "token", tabindex: left && index === 0 ? 0 : -1, role: "button" });
        const box = { x: left ? GUTTER : width - GUTTER - column, y: y - row / 2 + 1, width: column, height: row - 2, rx: 5 };
        const edge = GUTTER + column - 10;
        item.append(svg("rect", box),
          svg("text", { x: left ? edge : width - edge, y, "text-anchor": left ? "end" : "start" }, clip(text, 16)),
          svg("text", { class: "value", x: left ? 0 : width, y, "text-anchor": left ? "start" : "end" }));
        // A token that is taken away while it has the focus loses it: nothing to draw then.
        const look = next => { token = next; if (item.isConnected) markLinks(); };
        item.onmouseenter = item.onfocus = () => look({ side, index });
        item.onmouseleave = item.onblur = () => look(null);
        item.onclick = () => left && go({ kept: state.kept === index ? null : index });
        item.onkeydown = event => tokenKey(event, side, index);
        group.append(item);
      });
      return group;
    });
    picture.replaceChildren(lines, ...sides);
    picture.dataset.edge = GUTTER + column + 2;
    markLinks();
  }
  function markLinks() {
    const picture = $("links"), n = tokens().length, weights = current(), pick = chosen();
    const width = picture.viewBox.baseVal.width, from = Number(picture.dataset.edge), to = width - from, middle = width / 2;
    const at = index => ((index + 0.5) * rowHeight()).toFixed(1);
    let links = [];
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        const mine = !pick || (pick.side === "reads" ? pick.index === i : pick.index === j);
        if (mine && weights[i * n + j] >= (pick ? 0.002 : 0.02)) links.push([weights[i * n + j], i, j]);
      }
    links = links.sort((a, b) => b[0] - a[0]).slice(0, MOST).reverse();
    picture.querySelector("#lines").replaceChildren(...links.map(([weight, i, j]) => svg("path", {
      d: `M${from} ${at(i)}C${middle} ${at(i)} ${middle} ${at(j)} ${to} ${at(j)}`,
      "stroke-width": (0.6 + 5.4 * weight).toFixed(2), "stroke-opacity": (0.07 + 0.93 * weight ** 0.8).toFixed(3),
    })));
    for (const side of ["reads", "read"])
      picture.querySelectorAll(`.${side} .token`).forEach((group, index) => {
        const here = pick && pick.side === side && pick.index === index;
        const weight = !pick || pick.side === side ? null : side === "read" ? weights[pick.index * n + index] : weights[index * n + pick.index];
        group.classList.toggle("chosen", Boolean(here));
        group.setAttribute("aria-pressed", side === "reads" && state.kept === index);
        group.setAttribute("aria-label", side === "reads" ? `${tokens()[index]}, what it reads` : `${tokens()[index]}, what reads it`);
        group.firstChild.style.fillOpacity = here ? 0.16 : weight === null ? 0 : 0.75 * weight;
        group.lastChild.textContent = weight === null ? "" : weight < 0.00005 ? "0" : weight.toFixed(4);
      });
    if (pick) tellToken(pick, weights, n);
    drawMap();
  }
  function tellToken({ side, index }, weights, n) {
    const of = k => side === "reads" ? weights[index * n + k] : weights[k * n + index];
    const best = [...Array(n).keys()].sort((a, b) => of(b) - of(a)).slice(0, 4);
    const list = best.map(k => `${tokens()[k]} ${shown(of(k))}`).join(", ");
    tell(side === "reads" ? `${tokens()[index]} reads ${list}` : `${tokens()[index]} is read by ${list}`);
  }
  function tokenKey(event, side, index) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key], over = { ArrowLeft: "reads", ArrowRight: "read" }[event.key];
    if (step || over) focusToken(over || side, Math.max(0, Math.min(tokens().length - 1, index + (step || 0))));
    else if (event.key === "Enter" || event.key === " ") side === "reads" && go({ kept: state.kept === index ? null : index });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  function focusToken(side, index) {
    $("links").querySelectorAll(".token").forEach(group => group.setAttribute("tabindex", -1));
    const group = $("links").querySelectorAll(`.${side} .token`)[index];
    group.setAttribute("tabindex", 0);
    group.focus();
  }

  // ---- map -----------------------------------------------------------------------------------------------------------------
  const sheet = make("canvas");
  let layout = { left: 0, top: 0, size: 1 };
  const css = name => getComputedStyle(document.body).getPropertyValue(name);
  function drawMap() {
    const canvas = $("map"), n = tokens().length, context = canvas.getContext("2d"), scale = devicePixelRatio || 1;
    const room = canvas.parentElement.clientWidth || 480, font = "12px " + getComputedStyle(document.body).fontFamily;
    context.font = `600 ${font}`;
    const clipped = tokens().map(text => clip(text, 14));
    const wide = Math.max(...clipped.map(text => context.measureText(text).width)) + 10;
    const roomy = Math.floor((room - wide) / n), named = roomy >= 11;
    const size = named ? Math.min(roomy, 34) : Math.max(2, Math.min(10, Math.floor(room / n)));
    layout = { left: named ? wide : 0, top: named ? wide : 0, size };
    const [width, height] = [layout.left + n * size, layout.top + n * size];
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    context.scale(scale, scale);
    context.imageSmoothingEnabled = false;
    paint(sheet, n, n, current());
    context.drawImage(sheet, layout.left, layout.top, n * size, n * size);
    const pick = cell || (chosen() && (chosen().side === "reads" ? [chosen().index, null] : [null, chosen().index]));
    if (named) drawNames(context, clipped, font, pick);
    if (size > 8) drawLines(context, n, size);
    if (pick) drawPick(context, n, size, pick);
  }
  function drawNames(context, names, font, pick) {
    context.textBaseline = "middle";
    names.forEach((name, k) => {
      const at = (k + 0.5) * layout.size, style = chosenHere => {
        context.font = chosenHere ? `600 ${font}` : font;
        context.fillStyle = inkOf(chosenHere ? "accent" : special(tokens()[k]) ? "soft" : "ink");
      };
      style(pick && pick[0] === k);
      context.textAlign = "right";
      context.fillText(name, layout.left - 6, layout.top + at);
      style(pick && pick[1] === k);
      context.save();
      context.translate(layout.left + at, layout.top - 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(name, 0, 0);
      context.restore();
    });
  }
  function drawLines(context, n, size) {
    context.strokeStyle = inkOf("line");
    context.lineWidth = 0.5;
    context.beginPath();
    for (let k = 0; k <= n; k++) {
      context.moveTo(layout.left + k * size, layout.top);
      context.lineTo(layout.left + k * size, layout.top + n * size);
      context.moveTo(layout.left, layout.top + k * size);
      context.lineTo(layout.left + n * size, layout.top + k * size);
    }
    context.stroke();
  }
  function drawPick(context, n, size, [i, j]) {
    context.strokeStyle = inkOf("accent");
    const box = (row, column, rows, columns, line) => {
      context.lineWidth = line;
      context.strokeRect(layout.left + column * size, layout.top + row * size, columns * size, rows * size);
    };
    const both = i !== null && j !== null;
    if (i !== null) box(i, 0, 1, n, both ? 1 : 1.5);
    if (j !== null) box(0, j, n, 1, both ? 1 : 1.5);
    if (both) box(i, j, 1, 1, 2.5);
  }
  /** A colour of the style sheet as a canvas takes it. */
  function inkOf(name) {
    const probe = $("tip").appendChild(make("i"));
    probe.style.color = `var(--${name})`;
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }
  function cellAt(event) {
    const box = $("map").getBoundingClientRect(), n = tokens().length;
    const j = Math.floor((event.clientX - box.left - layout.left) / layout.size);
    const i = Math.floor((event.clientY - box.top - layout.top) / layout.size);
    return i >= 0 && j >= 0 && i < n && j < n ? [i, j] : null;
  }
  function lookAt(next, x, y) {
    cell = next;
    drawMap();
    if (!cell) { $("tip").hidden = true; return; }
    const [i, j] = cell, weight = shown(current()[i * tokens().length + j]);
    tell(`${pair(i, j)}: ${weight}`);
    $("tip").replaceChildren(`${pair(i, j)}  `, make("b", {}, weight));
    $("tip").hidden = false;
    const tip = $("tip").getBoundingClientRect();
    $("tip").style.left = `${Math.min(x + 14, innerWidth - tip.width - 8)}px`;
    $("tip").style.top = `${y + 16 + tip.height > innerHeight ? y - tip.height - 10 : y + 16}px`;
  }
  function lookByKey(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!steps[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    const last = tokens().length - 1, bound = k => Math.max(0, Math.min(last, k));
    const next = cell ? [bound(cell[0] + steps[event.key][0]), bound(cell[1] + steps[event.key][1])] : [0, 0];
    const box = $("map").getBoundingClientRect();
    lookAt(next, box.left + layout.left + (next[1] + 0.5) * layout.size, box.top + layout.top + (next[0] + 0.5) * layout.size);
  }

  // ---- state ---------------------------------------------------------------------------------------------------------------
  const tell = text => { $("status").textContent = text; };
  function go(change) {
    const before = { ...state };
    Object.assign(state, change);
    if (state.sentence !== before.sentence && !("kept" in change)) state.kept = null;
    token = cell = null;
    $("tip").hidden = true;
    draw(state.sentence !== before.sentence);
    const hash = { s: state.sentence, l: state.layer, h: state.head, ...(state.kept === null ? {} : { t: state.kept }) };
    history.replaceState(null, "", "#" + Object.entries(hash).map(([key, value]) => `${key}=${value + 1}`).join("&"));
  }
  /** Draws all that a change of head alters; with `everything`, what a change of sentence, theme or width does. */
  function draw(everything) {
    tell("");
    markHead();
    if (!everything) return markLinks();
    markSentence();
    drawThumbnails();
    drawLinks();
  }
  /** The state that the hash tells, as far as there is such a thing. */
  function fromHash() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const read = (key, count) => {
      const value = Number.parseInt(asked.get(key), 10) - 1;
      return value >= 0 && value < count ? value : null;
    };
    state.sentence = read("s", data.sentences.length) ?? 0;
    const telling = asked.has("l") || asked.has("h") ? [0, 0] : mostTelling();
    state.layer = read("l", data.layers) ?? telling[0];
    state.head = read("h", data.heads) ?? telling[1];
    state.kept = read("t", tokens().length);
    if (["light", "dark"].includes(asked.get("theme"))) document.documentElement.dataset.theme = asked.get("theme");
  }
  function globalKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const wrap = (value, count) => (value + count) % count;
    const inList = $("sentences").contains(document.activeElement), inGrid = $("grid").contains(document.activeElement);
    const list = { "[": -1, "]": 1, ...(inList ? { ArrowUp: -1, ArrowDown: 1 } : {}) }[event.key];
    if (list) go({ sentence: wrap(state.sentence + list, data.sentences.length) });
    else if (event.key === "ArrowLeft") go({ head: wrap(state.head - 1, data.heads) });
    else if (event.key === "ArrowRight") go({ head: wrap(state.head + 1, data.heads) });
    else if (event.key === "ArrowUp") go({ layer: wrap(state.layer - 1, data.layers) });
    else if (event.key === "ArrowDown") go({ layer: wrap(state.layer + 1, data.layers) });
    else if (event.key === "Escape") go({ kept: null });
    else return;
    event.preventDefault();
    if (inList) $("sentences").children[state.sentence].focus();
    if (inGrid) headButtons()[state.layer * data.heads + state.head].focus();
  }
  function recolour() {
    makeRamp();
    paint($("ramp"), 256, 1, Float64Array.from({ length: 256 }, (_, k) => k / 255));
    draw(true);
  }

  // ---- start ---------------------------------------------------------------------------------------------------------------
  $("about").textContent = `${data.model}: ${data.layers} layers of ${data.heads} heads, computed by burn-attn (${data.computed_by})`;
  $("query").textContent = `Bars: similarity to “${data.query}”`;
  $("left-out").textContent = data.left_out ? `${data.left_out} more sentences are not on this page.` : "";
  fromHash();
  drawSentences();
  drawGrid();
  recolour();
  $("map").onmousemove = event => lookAt(cellAt(event), event.clientX, event.clientY);
  $("map").onmouseleave = $("map").onblur = () => lookAt(null);
  $("map").onclick = event => { const at = cellAt(event); if (at) go({ kept: state.kept === at[0] ? null : at[0] }); };
  $("map").onkeydown = lookByKey;
  $("theme").onclick = () => { document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark"; recolour(); };
  media.onchange = recolour;
  addEventListener("keydown", globalKey);
  addEventListener("hashchange", () => { fromHash(); token = cell = null; draw(true); });
  addEventListener("resize", () => draw(true));
})();
