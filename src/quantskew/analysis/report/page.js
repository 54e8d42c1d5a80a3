const PAGE = 25;
for (const list of document.querySelectorAll(".list")) {
  const body = list.querySelector("tbody"), heads = [...list.querySelectorAll("th")], pager = list.querySelector(".pager");
  const [previous, next, status, filter] = pager.children;
  let first = 0;
  const show = from => {
    const words = filter.value.toLowerCase().split(" ");
    const rows = [...body.rows].filter(row => words.every(word => row.textContent.toLowerCase().includes(word)));
    if (from < 0 || (from && from >= rows.length)) return;
    first = from;
    const shown = rows.slice(first, first + PAGE);
    for (const row of body.rows) row.hidden = !shown.includes(row);
    status.textContent = shown.length ? `rows ${first + 1}–${first + shown.length} of ${rows.length}` : "no rows";
    previous.ariaDisabled = first === 0;
    next.ariaDisabled = first + PAGE >= rows.length;
  };
  previous.onclick = () => show(first - PAGE);
  next.onclick = () => show(first + PAGE);
  filter.oninput = () => show(0);
  const key = (row, column) => { const cell = row.cells[column], number = parseFloat(cell.dataset.value); return isNaN(number) ? cell.textContent : number; };
  heads.forEach((head, column) => head.firstChild.onclick = () => {
    const sign = head.ariaSort === "ascending" ? -1 : 1;
    for (const other of heads) other.ariaSort = null;
    head.ariaSort = sign > 0 ? "ascending" : "descending";
    body.append(...[...body.rows].sort((a, b) => {
      const x = key(a, column), y = key(b, column);
      return typeof x === typeof y ? sign * ((x > y) - (x < y)) : typeof x === "number" ? -1 : 1; // no number: last
    }));
    show(0);
  });
  pager.hidden = body.rows.length <= PAGE;
  if (!pager.hidden) show(0);
}
