  const { metrics, differences } = data;

  // ---- the choice of A and B
  for (const side of ["a", "b"]) {
    for (const radio of document.querySelectorAll(`input[name="${side}"]`)) {
      radio.checked = radio.value === picked[side];
      radio.addEventListener("change", () => {
        picked[side] = radio.value;
        update();
      });
    }
  }

  // ---- sorting
  const table = $("compare");
  const order = { up: -1, down: 1, none: 1 }; // the better value first
  for (const button of table.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      const head = button.closest("th");
      const place = [...head.parentElement.children].indexOf(head);
      const first = key === "label" ? "ascending" : order[metrics[key].direction] < 0 ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const direction = head.ariaSort === first ? other : first;
      for (const each of table.querySelectorAll("thead [aria-sort]")) each.ariaSort = "none";
      head.ariaSort = direction;
      const sign = direction === "ascending" ? 1 : -1;
      const value = (row) => row.children[place].dataset.value ?? "";
      const compare = (one, two) =>
        key === "label" ? sign * one.localeCompare(two, undefined, { numeric: true })
        : one === "" || two === "" ? (one === "") - (two === "") // what was not measured goes last
        : sign * (Number(one) - Number(two));
      const rows = [...table.tBodies[0].rows].sort((one, two) => compare(value(one), value(two)));
      table.tBodies[0].append(...rows);
    });
  }
  $("all-metrics").addEventListener("change", (event) => table.classList.toggle("all", event.target.checked));

  // ---- the difference of A and B, looked up
  function find(a, b) {
    const pair = differences[`${a} ${b}`];
    if (pair) return { paired: pair.paired, of: (key) => pair.metrics[key] };
    const turned = differences[`${b} ${a}`];
    if (!turned) return null;
    const negate = (gap) => gap && [-gap[0], -gap[2], -gap[1], gap[3]];
    return { paired: turned.paired, of: (key) => negate(turned.metrics[key]) };
  }

  function signed(value, unit) {
    const text = unit === "share" ? (100 * value).toFixed(1) : unit === "score" ? value.toFixed(3) : String(Number(value.toPrecision(3)));
    if (Number(text) === 0) return text.replace("-", "");
    return value > 0 ? `+${text}` : text;
  }

  function showDifference() {
    const [a, b] = [column[picked.a], column[picked.b]];
    const pair = find(a.id, b.id);
    $("difference-title").textContent = `B − A: ${b.label} − ${a.label}`;
    $("difference-note").textContent =
      a.id === b.id ? "A and B are the same model: pick two."
      : !pair ? "There is no difference to show between two bases."
      : pair.paired ? "Paired: image with image at equal prompt and seed; shares in percentage points. In bold where the interval leaves out zero."
      : "A and B had different targets, so their images do not pair: this is the difference of what each changed against its own base. In bold where the interval leaves out zero.";
    $("head-a").textContent = `A: ${a.label}`;
    $("head-b").textContent = `B: ${b.label}`;
    const rows = [];
    for (const [key, metric] of Object.entries(metrics)) {
      const gap = pair && a.id !== b.id ? pair.of(key) : undefined;
      const row = make("tr");
      row.dataset.metric = key;
      const head = make("th", `${metric.title} ${{ up: "↑", down: "↓", none: "" }[metric.direction]}`);
      head.scope = "row";
      head.append(make("small", metric.definition));
      row.append(head);
      for (const [letter, side] of [["A", a], ["B", b]]) {
        const [value, interval] = metric.values[side.id] ?? ["–", ""];
        const cell = make("td", "", "num");
        cell.dataset.side = letter;
        cell.append(make("span", value, metric.struck.includes(side.id) ? "struck" : ""), make("small", interval));
        row.append(cell);
      }
      const withheld = metric.struck.includes(a.id) || metric.struck.includes(b.id);
      const cell = make("td", gap ? signed(gap[0], metric.unit) : "–", `num gap${gap && withheld ? " struck" : ""}`);
      cell.dataset.side = "B − A";
      const bar = make("td", "", "bar-cell");
      if (gap) {
        const [value, lo, hi, count] = gap;
        cell.append(make("small", `[${signed(lo, metric.unit)}, ${signed(hi, metric.unit)}]`));
        cell.title = `${count} rows`;
        bar.append(drawBar(value, lo, hi, metric.unit));
        if (lo > 0 || hi < 0) {
          row.classList.add("clear");
          if (metric.direction !== "none" && !withheld) row.classList.add((value > 0) === (metric.direction === "up") ? "better" : "worse");
        }
      }
      row.append(cell, bar);
      rows.push(row);
    }
    $("difference").tBodies[0].replaceChildren(...rows);
  }

  function drawBar(value, lo, hi, unit) {
    const reach = unit === "share" ? 1 : 1.1 * Math.max(Math.abs(lo), Math.abs(hi), 1e-9); // other units fill the width
    const place = (x) => 50 + 50 * Math.max(-1, Math.min(1, x / reach));
    const bar = make("div", "", "bar");
    const range = make("i");
    range.style.left = `${place(lo)}%`;
    range.style.width = `${place(hi) - place(lo)}%`;
    const dot = make("b");
    dot.style.left = `${place(value)}%`;
    bar.append(range, dot);
    return bar;
  }

  // ---- definitions on hover and on focus
  const tip = $("tip");
  let told = null; // whose definition is shown
  function showTip(target) {
    hideTip();
    told = target;
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    target.setAttribute("aria-describedby", "tip");
    placeTip();
  }
  function placeTip() {
    if (!told) return;
    const [box, own] = [told.getBoundingClientRect(), tip.getBoundingClientRect()];
    tip.style.left = `${Math.max(8, Math.min(box.left, document.documentElement.clientWidth - own.width - 8))}px`;
    tip.style.top = `${box.bottom + own.height + 10 > innerHeight ? box.top - own.height - 6 : box.bottom + 6}px`;
  }
  function hideTip() {
    tip.hidden = true;
    told?.removeAttribute("aria-describedby");
    told = null;
  }
  for (const target of document.querySelectorAll("[data-tip]")) {
    target.addEventListener("mouseenter", () => showTip(target));
    target.addEventListener("focus", () => showTip(target));
    target.addEventListener("mouseleave", hideTip);
    target.addEventListener("blur", hideTip);
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
  document.addEventListener("scroll", placeTip, { passive: true, capture: true }); // focus may scroll, tables do, too

  function update() {
    for (const row of table.tBodies[0].rows) {
      row.classList.toggle("is-a", row.dataset.column === picked.a);
      row.classList.toggle("is-b", row.dataset.column === picked.b);
    }
    for (const map of document.querySelectorAll(".heat-pair")) {
      map.hidden = ![picked.a, picked.b].includes(map.dataset.column);
    }
    showDifference();
    filterWall();
  }
  update();
  document.documentElement.dataset.ready = "true";
