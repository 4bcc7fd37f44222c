// Shared by the scripts of the pages. Model output is inserted as text only, never as HTML.

export const setUp = (selector, install) => document.querySelectorAll(selector).forEach(install);

export function element(tag, text) {
  const node = document.createElement(tag);
  node.textContent = String(text);
  return node;
}

export function list(texts) {
  const node = document.createElement("ul");
  node.append(...asArray(texts).map((text) => element("li", text)));
  return node;
}

export const asArray = (value) => (Array.isArray(value) ? value : []);

// Texts that this browser keeps, of all tabs (localStorage) or of one (sessionStorage), unless its
// settings forbid that.

export function recall(key, area = "localStorage") {
  try {
    return window[area].getItem(key);
  } catch {
    return null;
  }
}

export function remember(key, text, area = "localStorage") {
  try {
    window[area].setItem(key, text);
  } catch {
    // not kept
  }
}
