// The start page: choosing a photo, or dropping one anywhere on it.
import { setUp } from "./page.js";

function choosePhoto(form) {
  const input = form.querySelector("input[type=file]");
  const zone = form.querySelector("[data-drop]");
  const fault = form.querySelector("[data-fault]");
  const maxMB = Number(form.dataset.maxMb);
  form.querySelector("[data-only-js]").hidden = false;

  function isTooLarge() {
    const file = input.files[0];
    const tooLarge = file && file.size > maxMB * 1e6 - 1e5; // the other fields are sent with it
    fault.textContent = tooLarge ? `The photo has ${formatSize(file)}; at most ${maxMB} MB are accepted.` : "";
    fault.hidden = !tooLarge;
    return tooLarge;
  }
  input.addEventListener("change", () => {
    isTooLarge();
    preview(form.querySelector("[data-preview]"), input.files[0]);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", () => zone.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    const transfer = new DataTransfer();
    transfer.items.add(event.dataTransfer.files[0]);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change"));
  });
  form.addEventListener("submit", (event) => {
    if (isTooLarge()) event.preventDefault();
  });
}

function preview(figure, file) {
  const image = figure.querySelector("img");
  const caption = figure.querySelector("figcaption");
  if (image.src) URL.revokeObjectURL(image.src);
  figure.hidden = !file;
  if (!file) return;
  const name = `${file.name}, ${formatSize(file)}`;
  image.hidden = true; // until it has loaded: few browsers can show HEIC
  caption.textContent = `${name}; this browser cannot show it, but the service can read it`;
  image.onload = () => {
    image.hidden = false;
    caption.textContent = name;
  };
  image.src = URL.createObjectURL(file);
}

function formatSize(file) {
  return file.size < 1e6 ? `${Math.ceil(file.size / 1e3)} kB` : `${(file.size / 1e6).toFixed(1)} MB`;
}

setUp("form.ask", choosePhoto);
