  // ---- the tables of all numbers: sorting, and which columns they show
  const better = { up: "descending", down: "ascending", none: "ascending" }; // the better value first
  const tables = [...document.querySelectorAll("table.compare")];
  for (const table of tables) {
    for (const button of table.querySelectorAll("[data-sort]")) button.addEventListener("click", () => sort(table, button));
  }
  for (const box of document.querySelectorAll("[data-toggle]")) {
    box.addEventListener("change", () => tables.forEach((table) => table.classList.toggle(box.dataset.toggle, box.checked)));
  }
  updates.push(() => {
    for (const row of document.querySelectorAll("table.compare tbody tr")) {
      row.classList.toggle("is-a", row.dataset.model === picked.a);
      row.classList.toggle("is-b", row.dataset.model === picked.b);
    }
  });

  function sort(table, button) {
    const key = button.dataset.sort;
    const head = button.closest("th");
    const place = [...head.parentElement.children].indexOf(head);
    const first = key === "label" ? "ascending" : better[metrics[key].direction];
    const direction = head.ariaSort !== first ? first : first === "ascending" ? "descending" : "ascending";
    for (const each of table.querySelectorAll("thead [aria-sort]")) each.ariaSort = "none";
    head.ariaSort = direction;
    const sign = direction === "ascending" ? 1 : -1;
    const value = (row) => row.children[place].dataset.value ?? "";
    const compare = (one, two) =>
      key === "label" ? sign * one.localeCompare(two, undefined, { numeric: true })
      : one === "" || two === "" ? (one === "") - (two === "") // what was not measured goes last
      : sign * (Number(one) - Number(two));
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort((one, two) => compare(value(one), value(two))));
  }

  // ---- the difference of A and B, looked up
  if ($("difference")) updates.push(showDifference);

  function find(a, b) {
    const pair = data.differences.find((each) => each.a === a && each.b === b);
    if (pair) return { paired: pair.paired, of: (key) => pair.metrics[key] };
    const turned = data.differences.find((each) => each.a === b && each.b === a);
    const negate = (gap) => gap && [-gap[0], -gap[2], -gap[1], gap[3]];
    return turned && { paired: turned.paired, of: (key) => negate(turned.metrics[key]) };
  }

  function signed(value, unit) {
    const text = unit === "share" ? (100 * value).toFixed(1) : unit === "score" ? value.toFixed(3) : String(Number(value.toPrecision(3)));
    if (Number(text) === 0) return text.replace("-", "");
    return value > 0 ? `+${text}` : text;
  }

  function showDifference() {
    const { a, b } = picked;
    const pair = a === b ? null : find(a, b);
    $("difference-title").textContent = `B − A: ${b} − ${a}`;
    $("difference-note").textContent =
      a === b ? "A and B are the same model: pick two."
      : !pair ? "There is no difference to show between two bases."
      : pair.paired ? "Paired: image with image at equal prompt and seed; shares in percentage points. In bold where the interval leaves out zero."
      : "A and B have other prompts or another base, so their images do not pair: this is the difference of what each changed against its own base. In bold where the interval leaves out zero.";
    $("head-a").textContent = `A: ${a}`;
    $("head-b").textContent = `B: ${b}`;
    const rows = [];
    let file = "";
    for (const [key, metric] of Object.entries(metrics)) {
      if (metric.file !== file) rows.push(makeFileRow(file = metric.file));
      rows.push(makeRow(key, metric, pair?.of(key)));
    }
    $("difference").tBodies[0].replaceChildren(...rows);
  }

  function makeFileRow(file) {
    const [row, head] = [make("tr", "", "file"), make("th", file.replaceAll("_", " "))];
    head.colSpan = 5;
    head.scope = "rowgroup";
    row.append(head);
    return row;
  }

  function makeRow(key, metric, gap) {
    const row = make("tr");
    row.dataset.metric = key;
    const head = make("th", `${metric.title} ${{ up: "↑", down: "↓", none: "" }[metric.direction]}`);
    head.scope = "row";
    head.append(make("small", metric.definition));
    row.append(head);
    for (const side of ["a", "b"]) {
      const [value, interval] = metric.values[picked[side]] ?? ["–", ""];
      const cell = make("td", "", "num");
      cell.dataset.side = side.toUpperCase();
      cell.append(make("span", value, metric.struck.includes(picked[side]) ? "struck" : ""), make("small", interval));
      row.append(cell);
    }
    const withheld = metric.struck.includes(picked.a) || metric.struck.includes(picked.b);
    const cell = make("td", "", "num gap");
    cell.dataset.side = "B − A";
    cell.append(make("span", gap ? signed(gap[0], metric.unit) : "–", gap && withheld ? "struck" : ""));
    const bar = make("td", "", "bar-cell");
    if (gap) {
      const [value, lo, hi, count] = gap;
      cell.append(make("small", `[${signed(lo, metric.unit)}, ${signed(hi, metric.unit)}]`));
      cell.title = `${count} rows`;
      bar.append(makeBar(value, lo, hi, metric.unit));
      if (lo > 0 || hi < 0) {
        row.classList.add("clear");
        if (metric.direction !== "none" && !withheld) row.classList.add((value > 0) === (metric.direction === "up") ? "better" : "worse");
      }
    }
    row.append(cell, bar);
    return row;
  }

  function makeBar(value, lo, hi, unit) {
    const reach = unit === "share" ? 1 : 1.1 * Math.max(Math.abs(lo), Math.abs(hi), 1e-9); // other units fill the width
    const place = (x) => 50 + 50 * Math.max(-1, Math.min(1, x / reach));
    const [bar, range, dot] = [make("div", "", "bar"), make("i"), make("b")];
    range.style.left = `${place(lo)}%`;
    range.style.width = `${place(hi) - place(lo)}%`;
    dot.style.left = `${place(value)}%`;
    bar.append(range, dot);
    return bar;
  }
