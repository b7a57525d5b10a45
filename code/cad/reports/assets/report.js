"use strict";

(() => {
  const VIEWS = ["Image", "Truth", "Prediction", "Errors"];
  const list = document.querySelector(".cards");
  if (!list) return;
  const cards = [...list.children];
  const controls = document.querySelector(".controls");
  const arrangement = document.querySelector(".arrangement");
  const viewAll = document.getElementById("view-all");
  const order = document.getElementById("order");
  const direction = document.getElementById("direction");
  const group = document.getElementById("group");
  const status = document.getElementById("status");

  // From image (0) over truth (1) and prediction (2) to errors (3), each fading into the next.
  const opacity = (view, at) => {
    if (view === 0) return 1;
    if (view === 1) return at >= 2 ? 0 : Math.min(1, at);
    return Math.max(0, 1 - Math.abs(at - view));
  };

  const sliderOf = (card) => card.querySelector("input");

  function paint(card) {
    const { name, labels, method = "0" } = card.dataset;
    const at = Number(sliderOf(card).value);
    const view = VIEWS[Math.round(at)];
    for (const layer of card.querySelectorAll(".frame img")) {
      const other = layer.dataset.method !== undefined && layer.dataset.method !== method;
      layer.style.opacity = other ? 0 : opacity(Number(layer.dataset.view), at);
    }
    const label = at < 1.5 ? "" : ` of ${JSON.parse(labels)[method]}`;
    card.querySelector(".frame").setAttribute("aria-label", `${view}${label}: ${name}`);
    sliderOf(card).setAttribute("aria-valuetext", view + label);
    for (const button of card.querySelectorAll(".scores button")) {
      button.setAttribute("aria-pressed", String(button.value === method));
    }
  }

  function show(card, method) {
    card.dataset.method = method;
    paint(card);
  }

  function arrange() {
    const key = Number(order.value);
    const sign = direction.value === "descending" ? -1 : 1;
    const value = new Map(cards.map((card) => [card, JSON.parse(card.dataset.keys)[key]]));
    cards.sort((a, b) => {
      const [x, y] = [value.get(a), value.get(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    list.append(...cards);
    for (const card of cards) card.hidden = group.value !== "" && card.dataset.group !== group.value;
    direction.textContent = sign < 0 ? "Descending ↓" : "Ascending ↑";
    const shown = cards.filter((card) => !card.hidden).length;
    status.textContent = `${shown} images by ${order.selectedOptions[0].text}, ${direction.value}`;
  }

  // Arrow keys go from view to view; dragging blends them.
  function step(event) {
    const forward = { ArrowRight: 1, ArrowUp: 1, PageUp: 1, ArrowLeft: -1, ArrowDown: -1, PageDown: -1 }[event.key];
    if (!forward || event.target.type !== "range") return;
    event.preventDefault();
    const at = Number(event.target.value);
    event.target.value = forward > 0 ? Math.floor(at) + 1 : Math.ceil(at) - 1;
    event.target.dispatchEvent(new Event("input", { bubbles: true }));
  }

  list.addEventListener("input", (event) => paint(event.target.closest(".card")));
  list.addEventListener("click", (event) => {
    const button = event.target.closest(".scores button");
    if (button) show(button.closest(".card"), button.value);
  });
  list.addEventListener("keydown", step);
  controls.addEventListener("keydown", step);
  viewAll.addEventListener("input", () => {
    viewAll.setAttribute("aria-valuetext", VIEWS[Math.round(Number(viewAll.value))]);
    for (const card of cards) {
      sliderOf(card).value = viewAll.value;
      paint(card);
    }
  });
  controls.addEventListener("change", (event) => {
    if (event.target.name === "method") cards.forEach((card) => show(card, event.target.value));
  });
  direction.addEventListener("click", () => {
    direction.value = direction.value === "descending" ? "ascending" : "descending";
    arrange();
  });
  order.addEventListener("change", () => {
    direction.value = order.selectedOptions[0].dataset.first || "ascending";
    arrange();
  });
  group.addEventListener("change", arrange);

  cards.forEach(paint);
  controls.hidden = arrangement.hidden = false;
})();
