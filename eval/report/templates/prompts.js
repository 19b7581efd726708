  // ---- the choice of A and B
  for (const side of ["a", "b"]) {
    if (!filters[side]) continue; // one model: base beside it
    filters[side].append(...models.map((each) => new Option(each.label, each.id, each.id === picked[side], each.id === picked[side])));
  }
  $("filters").addEventListener("change", () => choose(), { capture: true });
  $("filters").addEventListener("reset", () => setTimeout(choose), { capture: true });
  function choose() {
    for (const side of ["a", "b"]) if (filters[side]) picked[side] = filters[side].value;
  }
  filterWall();
  document.documentElement.dataset.ready = "true";
