  const data = JSON.parse(document.getElementById("data").textContent);
  const { columns, wall } = data;
  const column = Object.fromEntries(columns.map((each) => [each.id, each]));
  const $ = (id) => document.getElementById(id);
  const PAGE = 24; // cards that "show more" adds

  function make(tag, text = "", className = "") {
    const element = document.createElement(tag);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  // ---- the picks: by default base against the only model, or the first two models
  const models = columns.filter((each) => each.role === "erased");
  const picked = models.length > 1 ? { a: models[0].id, b: models[1].id } : { a: columns[0].id, b: models[0].id };

  // ---- the image wall
  const filters = $("filters").elements;
  const [STYLE, OBJECT, SEED, PART, PROMPT] = [0, 1, 2, 3, 4];
  const all = wall.rows.flat();
  for (const [name, place] of [["style", STYLE], ["object", OBJECT], ["seed", SEED]].filter(([name]) => filters[name])) {
    const values = [...new Set(all.map((row) => row[place]))].filter((value) => value !== "");
    for (const value of values) {
      const option = make("option", String(value).replaceAll("_", " ").replaceAll("+", " + "));
      option.value = value;
      filters[name].append(option);
    }
  }
  let cards = []; // [group, row number] of what the filters leave
  let shown = 0;

  function sources(group) { // base | A | B | gold, each once, of the models that share these rows
    const own = columns.filter((each) => each.group === group);
    const wanted = [own.find((each) => each.role === "base"), column[picked.a], column[picked.b], own.find((each) => each.role === "gold")];
    return [...new Set(wanted.filter((each) => each && each.group === group))];
  }

  function keeps(group, index) {
    const row = wall.rows[group][index];
    const wanted = (name, value) => !filters[name] || filters[name].value === "" || filters[name].value === String(value);
    if (!wanted("style", row[STYLE]) || !wanted("object", row[OBJECT]) || !wanted("seed", row[SEED]) || !wanted("part", row[PART])) return false;
    const verdict = filters.verdict.value;
    if (verdict === "") return true;
    const own = columns.find((each) => each.group === group && each.role === "base");
    const sides = [picked.a, picked.b].filter((id) => column[id].group === group && id !== own.id);
    const mark = (id) => wall.marks[id][index];
    if (verdict === "changed") return sides.some((id) => mark(id)[2] !== mark(own.id)[2]);
    if (verdict === "differ") {
      const [a, b] = [picked.a, picked.b];
      return column[a].group === column[b].group && (mark(a)[2] !== mark(b)[2] || mark(a)[1] !== mark(b)[1]);
    }
    return sides.some((id) => wall.badges[mark(id)[1]] === verdict);
  }

  function filterWall() {
    const sides = models.length > 1 ? [["A", picked.a], ["B", picked.b]] : [];
    $("sides").replaceChildren(...sides.map(([letter, id]) => {
      const told = make("span", `${letter}: `);
      told.append(make("span", "", `dot ${column[id].tint}`), column[id].label);
      return told;
    }));
    const groups = [...new Set([column[picked.a].group, column[picked.b].group])];
    const left = groups.map((group) => wall.rows[group].map((_, index) => index).filter((index) => keeps(group, index)));
    cards = [];
    for (let place = 0; place < Math.max(...left.map((each) => each.length)); place++) { // two targets take turns
      groups.forEach((group, which) => place < left[which].length && cards.push([group, left[which][place]]));
    }
    shown = 0;
    $("wall").replaceChildren();
    showMore();
  }

  function showMore() {
    const next = cards.slice(shown, shown + PAGE);
    $("wall").append(...next.map(([group, index]) => drawCard(group, index)));
    shown += next.length;
    $("count").textContent = `${shown} of ${cards.length} prompts and seeds shown`;
    $("more").hidden = shown >= cards.length;
  }

  function drawCard(group, index) {
    const row = wall.rows[group][index];
    const card = make("article", "", "quad");
    const words = (text) => text.replaceAll("_", " ").replaceAll("+", " + ");
    const head = make("h3", [row[STYLE], row[OBJECT]].filter(Boolean).map(words).join(" / ") || row[PROMPT]);
    head.append(make("small", `${["held-out", "attack"].includes(row[PART]) ? `“${row[PROMPT]}” · ` : ""}seed ${row[SEED]}`));
    const images = make("div", "", "images");
    for (const source of sources(group)) images.append(drawImage(source, group, index));
    card.append(head, images);
    return card;
  }

  function drawImage(source, group, index) {
    const [place, badge, seen, score = ""] = wall.marks[source.id][index];
    const figure = make("figure");
    const who = make("span", "", "who");
    const side = source.id === picked.a ? "A" : "B";
    who.append(make("span", "", `dot ${source.tint}`), source.role !== "erased" ? source.role : models.length > 1 ? side : source.label);
    who.title = source.label;
    const image = make("img");
    image.addEventListener("load", () => figure.classList.toggle("smooth", image.naturalWidth > 64));
    image.src = `data:image/webp;base64,${wall.images[place]}`;
    const told = `${wall.badges[badge]}, ${wall.saw}${wall.seen[seen]} ${score}`;
    image.alt = `${source.label}: ${wall.rows[group][index][PROMPT]} (${told})`;
    image.title = wall.rows[group][index][PROMPT];
    const caption = make("figcaption");
    caption.append(make("b", wall.badges[badge], `badge ${wall.badges[badge]}`), `${wall.seen[seen]} ${score}`.trim());
    figure.append(who, image, caption);
    return figure;
  }

  $("filters").addEventListener("change", filterWall);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(filterWall)); // the fields are reset after the event
  $("more").addEventListener("click", showMore);
