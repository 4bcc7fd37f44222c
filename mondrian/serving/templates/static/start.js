// The start page: choosing photos, sending them, and their progress. A photo that is not accepted
// stays chosen. Without scripts, the form sends one photo.
import { element, recall, remember, setUp } from "./page.js";
import { LOST, watchJobs } from "./progress.js";

const REMEMBERED = ["advisor", "mode"];
const MAX_TRIES = 20; // of a photo while the service has too many
const FIELD_BYTES = 1e5; // for the other fields, which are sent with the photo

function setUpForm(form) {
  const input = form.querySelector("input[type=file]");
  const send = form.querySelector("[data-send]");
  input.multiple = true;
  form.querySelector("[data-only-js]").hidden = false;
  restoreChoices(form);
  acceptDrops(form, input);
  input.addEventListener("change", () => {
    showFault(form, describeTooLarge(form, input.files));
    preview(form.querySelector("[data-preview]"), input.files);
  });
  window.addEventListener("pageshow", () => setBusy(send, false)); // after the back button
  form.addEventListener("submit", (event) => {
    rememberChoices(form);
    if (event.submitter?.name === "sample") return;
    event.preventDefault();
    const fault = describeTooLarge(form, input.files);
    showFault(form, fault);
    if (fault) return;
    setBusy(send, true);
    if (input.files.length > 1) sendBatch(form, [...input.files]);
    else sendOne(form, input.files[0]).finally(() => setBusy(send, false));
  });
}

function setBusy(button, isBusy) {
  button.disabled = isBusy;
  button.textContent = isBusy ? "Sending…" : "Get critique";
}

function showFault(form, message) {
  const fault = form.querySelector("[data-fault]");
  fault.textContent = message;
  fault.hidden = !message;
}

function describeTooLarge(form, files) {
  const maxMB = Number(form.dataset.maxMb);
  const large = [...files].find((file) => file.size > maxMB * 1e6 - FIELD_BYTES);
  if (!large) return "";
  return `${large.name} has ${formatSize(large)}; at most ${maxMB} MB are accepted. Export a smaller copy.`;
}

async function sendOne(form, file) {
  try {
    const answer = await sendPhoto(form, file);
    location.assign(answer.url);
  } catch (error) {
    showFault(form, error.message);
  }
}

// Returns {url, ids}. Throws an Error with a message for the photographer.
async function sendPhoto(form, file) {
  const data = new FormData(form);
  data.set("image", file, file.name);
  let response;
  try {
    response = await fetch(form.action, { method: "POST", body: data, headers: { accept: "application/json" } });
  } catch {
    throw new Error("The service cannot be reached. Check the connection and send the photo again.");
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const error = new Error(body.message || describeStatus(response.status, form));
  error.retrySeconds = [429, 503].includes(response.status) ? Number(response.headers.get("retry-after")) || 10 : 0;
  throw error;
}

function describeStatus(status, form) {
  const messages = {
    401: "You are logged out. Log in in another tab, then send the photo again.",
    413: `The photo is larger than ${form.dataset.maxMb} MB. Export a smaller copy.`,
    429: "Too many photos were sent in a minute. Wait a moment and send this one again.",
  };
  return messages[status] ?? "The photo was not accepted. Try again in a minute.";
}

// Several photos: one job each

async function sendBatch(form, files) {
  const section = document.querySelector("[data-batch]");
  const rows = files.map((file) => addRow(section.querySelector("ul"), file));
  form.hidden = true;
  section.hidden = false;
  section.focus();
  for (const [i, row] of rows.entries()) await sendRow(form, row, files[i]);
}

function addRow(list, file) {
  const row = document.querySelector("template[data-batch-row]").content.firstElementChild.cloneNode(true);
  row.querySelector("[data-name]").textContent = file.name;
  row.querySelector("[data-step]").textContent = "Waits to be sent";
  row.querySelector("progress").ariaLabel = `progress of ${file.name}`;
  showImage(row.querySelector("img"), file);
  list.append(row);
  return row;
}

async function sendRow(form, row, file) {
  const step = row.querySelector("[data-step]");
  const again = row.querySelector("[data-again]");
  again.hidden = true;
  step.textContent = "Sending…";
  for (let tries = 1; ; tries += 1) {
    try {
      return followRow(row, await sendPhoto(form, file));
    } catch (error) {
      step.textContent = error.message;
      if (!error.retrySeconds || tries === MAX_TRIES) break;
      await new Promise((resolve) => { setTimeout(resolve, 1000 * error.retrySeconds); });
    }
  }
  again.hidden = false;
  again.onclick = () => sendRow(form, row, file);
}

function followRow(row, { url, ids }) {
  const step = row.querySelector("[data-step]");
  const shares = new Map(ids.map((id) => [id, 0]));
  const statuses = new Set();
  let lastStep = "Queued";
  step.textContent = lastStep;
  const open = row.querySelector("[data-open]");
  open.href = url;
  open.hidden = false;
  for (const id of ids) {
    watchJobs([id], (state) => {
      if ("lost" in state) {
        step.textContent = state.lost ? LOST : lastStep;
        return;
      }
      shares.set(id, state.ended ? 100 : state.share);
      if (state.ended) statuses.add(state.status);
      const sum = [...shares.values()].reduce((total, share) => total + share, 0);
      row.querySelector("progress").value = sum / ids.length;
      const isDone = sum === 100 * ids.length;
      lastStep = isDone ? describeEnd(statuses) : state.step ?? lastStep;
      step.textContent = lastStep;
      open.classList.toggle("main", isDone);
    });
  }
}

const describeEnd = (statuses) => (statuses.size === 1 && statuses.has("completed") ? "Complete" : "Not completed");

// Choosing and dropping

function acceptDrops(form, input) {
  const zone = form.querySelector("[data-drop]");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", () => zone.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change"));
  });
}

function preview(area, files) {
  area.hidden = !files.length;
  area.classList.toggle("several", files.length > 1);
  area.replaceChildren(...[...files].map((file) => {
    const figure = document.createElement("figure");
    const image = document.createElement("img");
    image.alt = "your photo";
    const caption = element("figcaption", `${file.name}, ${formatSize(file)}`);
    showImage(image, file, () => { caption.textContent += "; this browser cannot show it; the service may be able to read it"; });
    figure.append(image, caption);
    return figure;
  }));
}

// Few browsers can show HEIC.
function showImage(image, file, onError = () => {}) {
  const url = URL.createObjectURL(file);
  image.hidden = true;
  image.onload = () => {
    image.hidden = false;
    URL.revokeObjectURL(url);
  };
  image.onerror = () => {
    URL.revokeObjectURL(url);
    onError();
  };
  image.src = url;
}

function formatSize(file) {
  return file.size < 1e6 ? `${Math.ceil(file.size / 1e3)} kB` : `${(file.size / 1e6).toFixed(1)} MB`;
}

// Remembered choices

function rememberChoices(form) {
  for (const name of REMEMBERED) remember(`ask.${name}`, form.elements[name].value);
}

function restoreChoices(form) {
  if ("rejected" in form.dataset) return; // the service has selected what was sent
  for (const name of REMEMBERED) {
    const value = recall(`ask.${name}`);
    if ([...form.querySelectorAll(`[name=${name}]`)].some((radio) => radio.value === value)) form.elements[name].value = value;
  }
}

setUp("form.ask", setUpForm);
