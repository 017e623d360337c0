// Tables are sorted by the value of a column: a click on its heading, or Enter on it. What has no
// value comes last in either direction.
"use strict";

for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}

function sort(head) {
  const isAscending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentElement.children) {
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  }
  head.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
  const isNumber = head.classList.contains("number");
  const body = head.closest("table").tBodies[0];
  const keyed = [...body.rows].map((row) => [row.cells[head.cellIndex].dataset.value, row]);
  keyed.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = isNumber ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
    return isAscending ? order : -order;
  });
  body.append(...keyed.map(([, row]) => row));
}
