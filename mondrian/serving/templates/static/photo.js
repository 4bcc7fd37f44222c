// The photo in full size, in a dialog: fit to the window or enlarged, moved by dragging or keys.
import { setUp } from "./page.js";

const SCALES = [0.25, 0.5, 1, 2, 4]; // CSS pixels per pixel of the photo

function enlarge(link) {
  const dialog = document.querySelector("[data-lightbox]");
  const stage = dialog.querySelector(".stage");
  const image = stage.querySelector("img");
  let scale = null; // null: fit

  function show(value, x = 0.5, y = 0.5) {
    scale = value;
    stage.classList.toggle("fit", scale === null);
    image.style.width = scale === null ? "" : `${image.naturalWidth * scale}px`;
    dialog.querySelector("[data-scale]").textContent = scale === null ? "Fit" : `${100 * scale} %`;
    stage.scrollLeft = x * stage.scrollWidth - stage.clientWidth / 2;
    stage.scrollTop = y * stage.scrollHeight - stage.clientHeight / 2;
  }
  function step(direction) {
    const current = image.clientWidth / image.naturalWidth;
    const next = direction > 0 ? SCALES.find((s) => s > current * 1.01) : SCALES.findLast((s) => s < current * 0.99);
    if (next) show(next, (stage.scrollLeft + stage.clientWidth / 2) / stage.scrollWidth, (stage.scrollTop + stage.clientHeight / 2) / stage.scrollHeight);
  }
  const actions = { in: () => step(1), out: () => step(-1), fit: () => show(null), full: () => show(1) };
  const keys = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "full" };

  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab or window
    event.preventDefault();
    if (!image.src) image.src = link.href;
    dialog.showModal();
    show(null);
    stage.focus();
  });
  dialog.addEventListener("click", ({ target }) => actions[target.dataset.zoom]?.());
  dialog.addEventListener("keydown", (event) => {
    if (dialog.open && !event.ctrlKey && !event.metaKey) actions[keys[event.key]]?.();
  });
  dragOrToggle(stage, image, (x, y) => show(scale === null ? 1 : null, x, y));
}

function dragOrToggle(stage, image, toggle) {
  let start = null;
  let moved = false;
  image.draggable = false;
  image.addEventListener("pointerdown", (event) => {
    moved = false;
    start = { x: event.clientX, y: event.clientY, left: stage.scrollLeft, top: stage.scrollTop };
    if (event.pointerType === "mouse") image.setPointerCapture(event.pointerId); // touch scrolls itself
  });
  image.addEventListener("pointermove", (event) => {
    if (!start || event.pointerType !== "mouse") return;
    moved = moved || Math.hypot(event.clientX - start.x, event.clientY - start.y) > 5;
    stage.scrollLeft = start.left + start.x - event.clientX;
    stage.scrollTop = start.top + start.y - event.clientY;
  });
  image.addEventListener("pointerup", () => { start = null; });
  image.addEventListener("pointercancel", () => { start = null; });
  image.addEventListener("click", (event) => {
    if (moved) return;
    const box = image.getBoundingClientRect();
    toggle((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
}

setUp("[data-enlarge]", enlarge);
