  // ---- the image wall
  const [STYLE, OBJECT, SEED, PART, PROMPT] = [0, 1, 2, 3, 4];
  const PAGE = 24; // cards that "show more" adds
  const filters = $("filters")?.elements;
  const words = (text) => text.replaceAll("_", " ").replaceAll("+", " + ");
  let cards = []; // [group, row number] of what the filters leave
  let shown = 0;
  if (filters) {
    for (const [name, place] of [["style", STYLE], ["object", OBJECT], ["seed", SEED]].filter(([name]) => filters[name])) {
      const values = [...new Set(Object.values(wall.rows).flat().map((row) => row[place]))].filter((value) => value !== "");
      filters[name].append(...values.map((value) => new Option(words(String(value)), value)));
    }
    $("filters").addEventListener("change", filterWall);
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("filters").addEventListener("reset", () => setTimeout(update)); // the fields are reset after the event
    $("more").addEventListener("click", showMore);
    updates.push(filterWall);
  }

  function sources(group) { // base | A | B | gold, each once, of the models that share these rows
    const own = models.filter((each) => each.group === group);
    const wanted = [own.find((each) => each.role === "base"), model[picked.a], model[picked.b], own.find((each) => each.role === "gold")];
    return [...new Set(wanted.filter((each) => each?.group === group))];
  }

  function keeps(group, index) {
    const row = wall.rows[group][index];
    const wanted = (name, place) => !filters[name]?.value || filters[name].value === String(row[place]);
    if (![["style", STYLE], ["object", OBJECT], ["seed", SEED], ["part", PART]].every(([name, place]) => wanted(name, place))) return false;
    const verdict = filters.verdict.value;
    if (verdict === "") return true;
    const [base, ...others] = sources(group).filter((each) => each.role !== "gold" || [picked.a, picked.b].includes(each.label));
    const mark = (each) => wall.marks[each.label][index];
    if (verdict === "changed") return others.some((each) => mark(each)[2] !== mark(base)[2]);
    if (verdict === "differ") {
      const [a, b] = [model[picked.a], model[picked.b]];
      return a.group === group && b.group === group && [1, 2].some((place) => mark(a)[place] !== mark(b)[place]);
    }
    return others.some((each) => wall.badges[mark(each)[1]] === verdict);
  }

  function filterWall() {
    const sides = erased.length > 1 ? ["a", "b"] : [];
    $("sides").replaceChildren(...sides.map((side) => {
      const name = make("span", `${side.toUpperCase()}: `);
      name.append(make("span", "", `dot ${model[picked[side]].tint}`), picked[side]);
      return name;
    }));
    const groups = [...new Set([model[picked.a].group, model[picked.b].group])].filter((group) => wall.rows[group]);
    const left = groups.map((group) => wall.rows[group].map((_, index) => index).filter((index) => keeps(group, index)));
    cards = [];
    for (let place = 0; place < Math.max(...left.map((each) => each.length)); place++) { // two groups take turns
      groups.forEach((group, which) => place < left[which].length && cards.push([group, left[which][place]]));
    }
    shown = 0;
    $("wall").replaceChildren();
    showMore();
  }

  function showMore() {
    const next = cards.slice(shown, shown + PAGE);
    $("wall").append(...next.map(([group, index]) => makeCard(group, index)));
    shown += next.length;
    $("count").textContent = `${shown} of ${cards.length} prompts and seeds shown`;
    $("more").hidden = shown >= cards.length;
  }

  function makeCard(group, index) {
    const row = wall.rows[group][index];
    const card = make("article", "", "quad");
    const cell = [row[STYLE], row[OBJECT]].filter(Boolean).map(words).join(" / ");
    const head = make("h3", cell || row[PROMPT]);
    head.append(make("small", `${cell && ["held-out", "attack"].includes(row[PART]) ? `“${row[PROMPT]}” · ` : ""}seed ${row[SEED]}`));
    const images = make("div", "", "images");
    images.append(...sources(group).map((source) => makeImage(source, group, index)));
    card.append(head, images);
    return card;
  }

  function makeImage(source, group, index) {
    const [place, badge, seen, score] = wall.marks[source.label][index];
    const figure = make("figure");
    const who = make("span", "", "who");
    const side = source.label === picked.a ? "A" : "B";
    who.append(make("span", "", `dot ${source.tint}`), source.role !== "erased" ? source.role : erased.length > 1 ? side : source.label);
    who.title = source.label;
    const image = make("img");
    image.addEventListener("load", () => figure.classList.toggle("smooth", image.naturalWidth > 64));
    image.src = `data:image/webp;base64,${wall.images[place]}`;
    image.alt = `${source.label}: ${wall.rows[group][index][PROMPT]} (${wall.badges[badge]}, ${wall.saw}${wall.seen[seen]} ${score})`;
    image.title = wall.rows[group][index][PROMPT];
    const caption = make("figcaption");
    caption.append(make("b", wall.badges[badge], `badge ${wall.badges[badge]}`), [wall.seen[seen], score].filter(Boolean).join(" · "));
    figure.append(who, image, caption);
    return figure;
  }
