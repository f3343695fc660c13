"use strict";
// The page reads as well without this script, which adds sorting, filtering, copying, and the mark
// of the section in view. What needs it is hidden, or not there, until it runs.

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
const collator = new Intl.Collator("en", { numeric: true }); // "8 experts" before "64 experts"

function keyOf(cell) {
  if (cell.classList.contains("absent")) return null;
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
}

function compare(a, b) {
  return typeof a === "number" ? (a > b) - (a < b) : collator.compare(a, b);
}

// Equal rows keep the order they have, so that a second column may be sorted within a first; rows
// without a value are last either way.
function sorted(rows, column, order) {
  const keyed = [...rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
  const sign = order === "ascending" ? 1 : -1;
  const known = keyed.filter(({ key }) => key !== null);
  const absent = keyed.filter(({ key }) => key === null);
  known.sort((a, b) => sign * compare(a.key, b.key));
  return [...known, ...absent].map(({ row }) => row);
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const given = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = NEXT[head.getAttribute("aria-sort")];
      for (const other of heads) other.setAttribute("aria-sort", other === head ? order : "none");
      for (const row of order === "none" ? given : sorted(body.rows, column, order)) {
        body.append(row);
      }
    });
  });
}

// A row stays if every word is in one of its cells, as shown or at full precision.
function makeFilter(tools) {
  const rows = [...tools.parentElement.querySelectorAll("tbody tr")];
  const texts = rows.map((row) =>
    [...row.cells].map((cell) => `${cell.textContent} ${cell.dataset.value ?? ""}`)
      .join(" ").toLowerCase());
  const input = tools.querySelector("input");
  const output = tools.querySelector("output");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !words.every((word) => texts[i].includes(word));
      shown += !row.hidden;
    });
    output.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
  });
  tools.hidden = false;
}

function makeCopyable(button) {
  const code = button.parentElement.querySelector("code");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch { // not allowed here: leave it selected, for the keyboard
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  button.hidden = false;
}

function markSectionInView() {
  const links = [...document.querySelectorAll("nav.side a")];
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      for (const link of links) {
        if (link.hash === `#${target.id}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const section of document.querySelectorAll("main > section")) watcher.observe(section);
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll(".tools").forEach(makeFilter);
document.querySelectorAll("button.copy").forEach(makeCopyable);
markSectionInView();
