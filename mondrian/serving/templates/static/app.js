// Every page: progress, buttons that are pressed once, and times in the local time zone. All pages
// work without scripts.
import { setUp } from "./page.js";
import "./progress.js";

// A pressed button shows that it works and cannot be pressed twice

function disableWhileSending(button) {
  const label = button.textContent;
  button.form.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    button.disabled = true;
    button.textContent = button.dataset.busy;
  });
  window.addEventListener("pageshow", () => { // after the browser's back button
    button.disabled = false;
    button.textContent = label;
  });
}

// Times in the local time zone

function localizeTime(time) {
  const date = new Date(time.dateTime);
  if (!Number.isNaN(date.getTime())) {
    time.textContent = date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

// Days that are chosen are in the local time zone
setUp("input[data-offset]", (input) => { input.value = new Date().getTimezoneOffset(); });
setUp("button[data-busy]", disableWhileSending);
setUp("time", localizeTime);
