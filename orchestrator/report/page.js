"use strict";
// Tables that sort and filter, values under the pointer, a slider over steps, a dark and a light page. Without this
// script the page lacks nothing but these: every number is in its tables.

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// The number that a cell begins with; NaN if it begins with none.
function number(text) {
  const found = text.replace(/,/g, "").replace(/\u2212/g, "-").match(/^-?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return found ? parseFloat(found[0]) : NaN;
}

// Sorting: ascending, descending, as it was. Numbers by size, absent ones last in either direction.

function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = made("button", {type: "button"}, ...header.childNodes);
    header.append(button);
    const numeric = header.classList.contains("number");
    button.addEventListener("click", () => {
      const next = {none: "ascending", ascending: "descending", descending: "none"}[header.ariaSort ?? "none"];
      headers.forEach(other => other.removeAttribute("aria-sort"));
      if (next !== "none") header.ariaSort = next;
      const sign = next === "descending" ? -1 : 1;
      const key = row => (numeric ? number(row.cells[column].textContent) : row.cells[column].textContent);
      const compare = (a, b) => numeric
        ? (Number.isNaN(a) - Number.isNaN(b)) || sign * (a - b) || 0
        : sign * a.localeCompare(b, "en", {numeric: true});
      body.append(...(next === "none" ? original : [...original].sort((a, b) => compare(key(a), key(b)))));
    });
  });
}

// Filtering: a row stays if it holds every word.

const FEW_ROWS = 8;

function filterable(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < FEW_ROWS) return;
  const count = made("output", {textContent: `${rows.length} rows`});
  const field = made("input", {type: "search", placeholder: "words that a row holds"});
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach(row => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    });
    count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
  });
  table.closest(".scroll").before(made("div", {className: "tools"}, made("label", {}, "Filter ", field), count));
}

// Values of a figure: under the pointer, or with the arrow keys once the figure has the focus.

const tip = made("div", {className: "tip"});
tip.setAttribute("role", "status");

function show(mark, text) {
  document.querySelector(".here")?.classList.remove("here");
  mark.classList.add("here");
  tip.textContent = text;
  const box = mark.getBoundingClientRect();
  const left = Math.min(box.x + box.width / 2 - tip.offsetWidth / 2, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left) + scrollX}px`;
  const above = box.y - tip.offsetHeight - 6;
  tip.style.top = `${(above > 0 ? above : box.bottom + 6) + scrollY}px`;
}

function hide() {
  document.querySelector(".here")?.classList.remove("here");
  tip.textContent = "";
}

function hoverable(frame) {
  const texts = JSON.parse(document.getElementById(frame.dataset.hover).textContent);
  const marks = [...frame.querySelectorAll("[data-row]")].sort((a, b) => a.dataset.row - b.dataset.row);
  if (!marks.length) return;
  let at = -1;
  const point = index => {
    at = (index + marks.length) % marks.length;
    show(marks[at], texts[marks[at].dataset.row]);
  };
  frame.addEventListener("pointerover", event => {
    const mark = event.target.closest("[data-row]");
    if (mark) point(marks.indexOf(mark));
    else hide();
  });
  frame.addEventListener("pointerleave", hide);
  frame.addEventListener("blur", hide);
  frame.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (step) {
      event.preventDefault();
      point(at < 0 && step < 0 ? marks.length - 1 : at + step);
    } else if (event.key === "Escape") hide();
  });
}

// The slider of the trajectories: a line through the figure, and the values at its step in the table below.

function slidable(slider) {
  const data = JSON.parse(document.getElementById(slider.dataset.values).textContent);
  const field = slider.querySelector("input");
  const output = slider.querySelector("output");
  const rows = [...document.getElementById(slider.dataset.table).tBodies[0].rows]; // in their order before any sorting
  const cursors = [...slider.closest("section").querySelectorAll("[data-cursor]")];
  const move = () => {
    const at = Number(field.value);
    output.textContent = `step ${data.steps[at].toLocaleString("en")}`;
    field.setAttribute("aria-valuetext", output.textContent);
    for (const cursor of cursors) {
      const x = data.x[cursor.dataset.cursor];
      cursor.setAttribute("transform", `translate(${x[at] - x[x.length - 1]})`);
    }
    data.cells.forEach((steps, row) => {
      steps[at].forEach((text, column) => {
        rows[row].cells[rows[row].cells.length - steps[at].length + column].textContent = text;
      });
    });
  };
  field.addEventListener("input", move);
  slider.hidden = false;
  move();
}

// A page of the other brightness.

function themed() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = made("button", {type: "button", className: "theme"});
  const current = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");
  const name = () => { button.textContent = current() === "dark" ? "Light page" : "Dark page"; };
  button.addEventListener("click", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    name();
  });
  dark.addEventListener("change", name);
  name();
  document.querySelector("header").prepend(button);
}

themed();
document.body.append(tip);
document.querySelectorAll("table").forEach(table => {
  sortable(table);
  filterable(table);
});
document.querySelectorAll("[data-hover]").forEach(hoverable);
document.querySelectorAll(".slider").forEach(slidable);
