// A view as a table that keeps itself up to date.
//
// 1. Rows are held by key (the view's proven key, else the whole row), each with its weight.
// 2. Events change what is held; the table is drawn at most once a frame, whatever comes in.
// 3. A snapshot replaces everything once its last part (the one with an id) is there.
// 4. The browser reconnects by itself and sends the last id; a reset empties the table.
"use strict";

const ROWS_SHOWN_MAX = 1000;

const root = document.getElementById("view");
const shape = JSON.parse(root.dataset.shape);
const names = shape.columns.map((column) => column.name);
const key = shape.key ? shape.key.map((position) => names[position]) : names;
const byId = (id) => document.getElementById(id);
const head = root.querySelector("thead tr");
const body = root.querySelector("tbody");

/** Rows by key: {row, weight, text, element, changed, isNew}. */
let held = new Map();
/** The rows of a snapshot that is still coming. */
let coming = null;
let sort = { column: -1, descending: false };
let scheduled = false;
let filter = "";

const keyOf = (row) => JSON.stringify(key.map((name) => row[name]));

function apply(map, changes, highlight) {
  const touched = new Map();
  for (const { weight, row } of changes) {
    const id = shape.key ? keyOf(row) : JSON.stringify(row);
    const before = touched.get(id) || { weight: 0, row: null };
    before.weight += weight;
    if (weight > 0 || !before.row) before.row = row;
    touched.set(id, before);
  }
  for (const [id, { weight, row }] of touched) {
    const entry = map.get(id);
    // With a key, an old row and a new one cancel out: the weight is that of the key.
    const now = (entry ? entry.weight : 0) + weight;
    if (now <= 0) {
      map.delete(id);
      if (entry && entry.element) entry.element.remove();
    } else if (!entry) {
      map.set(id, { row, weight: now, isNew: highlight, changed: new Set() });
    } else {
      for (const name of names) {
        if (highlight && entry.row[name] !== row[name]) entry.changed.add(name);
      }
      entry.row = row;
      entry.weight = now;
      entry.dirty = true;
      entry.text = null;
    }
  }
}

function textOf(value) {
  if (value === null || value === undefined) return "null";
  if (typeof value === "number") {
    return Number.isInteger(value) ? String(value) : String(Math.round(value * 1e4) / 1e4);
  }
  if (typeof value === "object") return JSON.stringify(value);
  return String(value).replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.0+)?Z$/, "$1 $2");
}

function compare(left, right) {
  if (left === right) return 0;
  if (left === null || left === undefined) return 1;
  if (right === null || right === undefined) return -1;
  if (typeof left === "number" && typeof right === "number") return left - right;
  return String(left).localeCompare(String(right), "en", { numeric: true });
}

function sorted(entries) {
  const columns = sort.column >= 0 ? [names[sort.column], ...key] : key;
  const direction = sort.descending ? -1 : 1;
  return entries.sort((a, b) => {
    for (let n = 0; n < columns.length; n++) {
      const name = columns[n];
      const [left, right] = [a.row[name], b.row[name]];
      // Rows without a value stay last, whichever way the column is sorted.
      const missing = left === null || right === null;
      const order = compare(left, right);
      if (order !== 0) return n === 0 && sort.column >= 0 && !missing ? order * direction : order;
    }
    return 0;
  });
}

function matches(entry) {
  if (!filter) return true;
  entry.text ??= names.map((name) => textOf(entry.row[name])).join("\u0001").toLowerCase();
  return entry.text.includes(filter);
}

function draw() {
  scheduled = false;
  const all = sorted([...held.values()].filter(matches));
  const shown = all.slice(0, ROWS_SHOWN_MAX);
  const keep = new Set(shown);
  for (const entry of held.values()) {
    if (entry.element && !keep.has(entry)) {
      entry.element.remove();
      entry.element = null;
    }
  }
  let at = body.firstElementChild;
  for (const entry of shown) {
    fill(entry);
    if (entry.element === at) at = at.nextElementSibling;
    else body.insertBefore(entry.element, at);
  }
  while (at) {
    const next = at.nextElementSibling;
    at.remove();
    at = next;
  }
  byId("rows").textContent = held.size.toLocaleString("en");
  byId("none").hidden = held.size > 0;
  byId("more").hidden = all.length <= ROWS_SHOWN_MAX;
  byId("more").textContent =
    `The first ${ROWS_SHOWN_MAX} of ${all.length.toLocaleString("en")} rows are shown.`;
}

function fill(entry) {
  if (!entry.element) {
    entry.element = document.createElement("tr");
    for (const column of shape.columns) {
      const cell = document.createElement("td");
      if (column.numeric) cell.className = "number";
      entry.element.append(cell);
    }
    entry.dirty = true;
    if (entry.isNew) entry.element.className = "new";
    entry.isNew = false;
  }
  if (!entry.dirty) return;
  entry.dirty = false;
  shape.columns.forEach((column, n) => {
    const cell = entry.element.cells[n];
    const value = entry.row[column.name];
    const text = textOf(value);
    if (cell.textContent !== text) cell.textContent = text;
    cell.classList.toggle("null", value === null || value === undefined);
    if (entry.changed.has(column.name)) {
      // Starts the highlight again if it is still fading.
      cell.classList.remove("changed");
      void cell.offsetWidth;
      cell.classList.add("changed");
    }
  });
  entry.changed.clear();
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(draw);
}

function state(text, kind) {
  const element = byId("state");
  if (element.textContent !== text) element.textContent = text;
  element.className = `state ${kind}`;
}

function drawHead() {
  shape.columns.forEach((column, n) => {
    const cell = document.createElement("th");
    if (column.numeric) cell.className = "number";
    const button = document.createElement("button");
    button.textContent = column.name;
    button.addEventListener("click", () => {
      // Numbers are looked at from the largest on.
      const first = column.numeric;
      sort = { column: n, descending: sort.column === n ? !sort.descending : first };
      [...head.cells].forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", sort.descending ? "descending" : "ascending");
      schedule();
    });
    cell.append(button);
    head.append(cell);
  });
}

let counted = 0;
let since = performance.now();
setInterval(() => {
  const now = performance.now();
  byId("rate").textContent = Math.round((counted * 1000) / (now - since)).toLocaleString("en");
  counted = 0;
  since = now;
}, 1000);

function follow() {
  const source = new EventSource(`/v1/views/${encodeURIComponent(shape.name)}/changes`);
  source.addEventListener("open", () => state("live", "live"));
  source.addEventListener("snapshot", (event) => {
    const { tick, changes } = JSON.parse(event.data);
    coming ??= new Map();
    apply(coming, changes, false);
    // A snapshot begins without an id, also after a reset, and its last part has one.
    if (event.lastEventId) {
      held = coming;
      coming = null;
      body.replaceChildren();
      byId("tick").textContent = tick;
      schedule();
    }
  });
  source.addEventListener("changes", (event) => {
    const { tick, changes } = JSON.parse(event.data);
    counted += changes.length;
    apply(held, changes, true);
    byId("tick").textContent = tick;
    schedule();
  });
  source.addEventListener("reset", (event) => {
    state("starting over", "");
    console.info("reset:", JSON.parse(event.data).reason);
    held = new Map();
    coming = null;
    body.replaceChildren();
    schedule();
    state("live", "live");
  });
  source.addEventListener("error", (event) => {
    coming = null;
    if (event.data) console.warn(event.data);
    // A refusal (the view was dropped, the node is stopping) closes the source for good.
    if (source.readyState === EventSource.CLOSED) {
      state("disconnected", "gone");
      setTimeout(follow, 3000);
    } else {
      state("reconnecting", "");
    }
  });
}

byId("filter").addEventListener("input", (event) => {
  filter = event.target.value.trim().toLowerCase();
  schedule();
});
drawHead();
follow();
