  const data = JSON.parse(document.getElementById("data").textContent);
  const { models, metrics, wall } = data;
  const model = Object.fromEntries(models.map((each) => [each.label, each]));
  const $ = (id) => document.getElementById(id);
  const updates = []; // what each section does when A or B changes
  const update = () => updates.forEach((each) => each());

  function make(tag, text = "", className = "") {
    const element = document.createElement(tag);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  // ---- the picks, by radio buttons and by lists: by default base against the only model, or the first two models
  const erased = models.filter((each) => each.role === "erased");
  const picked = erased.length > 1 ? { a: erased[0].label, b: erased[1].label } : { a: models[0].label, b: erased[0].label };
  for (const field of document.querySelectorAll("[data-pick]")) {
    field.addEventListener("change", () => {
      picked[field.dataset.pick] = field.value;
      update();
    });
  }
  updates.push(() => {
    for (const field of document.querySelectorAll("[data-pick]")) {
      if (field.type === "radio") field.checked = field.value === picked[field.dataset.pick];
      else field.value = picked[field.dataset.pick];
    }
    for (const map of document.querySelectorAll("[data-map]")) map.hidden = ![picked.a, picked.b].includes(map.dataset.map);
  });

  // ---- definitions on hover and on focus
  const tip = $("tip");
  let tipped = null; // whose definition is shown
  function showTip(target) {
    hideTip();
    tipped = target;
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    target.setAttribute("aria-describedby", "tip");
    placeTip();
  }
  function placeTip() {
    if (!tipped) return;
    const [box, own] = [tipped.getBoundingClientRect(), tip.getBoundingClientRect()];
    tip.style.left = `${Math.max(8, Math.min(box.left, document.documentElement.clientWidth - own.width - 8))}px`;
    tip.style.top = `${box.bottom + own.height + 10 > innerHeight ? box.top - own.height - 6 : box.bottom + 6}px`;
  }
  function hideTip() {
    tip.hidden = true;
    tipped?.removeAttribute("aria-describedby");
    tipped = null;
  }
  for (const target of document.querySelectorAll("[data-tip]")) {
    target.addEventListener("mouseenter", () => showTip(target));
    target.addEventListener("focus", () => showTip(target));
    target.addEventListener("mouseleave", hideTip);
    target.addEventListener("blur", hideTip);
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
  document.addEventListener("scroll", placeTip, { passive: true, capture: true }); // focus may scroll, tables do, too
