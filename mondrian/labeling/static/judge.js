// One key for each vote.
import { listenToKeys } from "./keys.js";

const choose = (choice) => () => document.querySelector(`[data-vote] [value=${choice}]`)?.click();

listenToKeys({
  1: choose("left"),
  2: choose("right"),
  0: choose("equal"),
  x: choose("skip"),
  u: choose("undo"),
});
