// Shared by all tabs of a browser, so that they need one event stream: browsers allow six
// connections to a service. A tab sends the ids of the jobs that it shows, and gets their states.
import { openStream } from "./live.js";

const tabs = new Map(); // port -> ids
const states = new Map(); // id -> last state
let streamed = "";
let closeStream = () => {};

// The tabs with the fewest jobs first: each follows its only job beside one with hundreds.
function watchedIds() {
  const lists = [...tabs.values()].sort((a, b) => a.length - b.length);
  return [...new Set(lists.flat())];
}

function update() {
  const ids = watchedIds();
  if (ids.join() === streamed) return;
  streamed = ids.join();
  closeStream();
  closeStream = ids.length ? openStream(ids, receive) : () => {};
}

function receive(state) {
  if (state.id) states.set(state.id, state);
  for (const [port, ids] of tabs) {
    if (!state.id || ids.includes(state.id)) port.postMessage(state);
  }
  if (!state.ended) return;
  states.delete(state.id);
  for (const [port, ids] of tabs) tabs.set(port, ids.filter((id) => id !== state.id));
  streamed = watchedIds().join(); // the stream goes on without this job
}

addEventListener("connect", (event) => {
  const port = event.ports[0];
  port.onmessage = (message) => {
    const ids = message.data;
    if (ids.length) tabs.set(port, ids);
    else tabs.delete(port); // the tab is closed
    for (const id of ids) if (states.has(id)) port.postMessage(states.get(id));
    update();
  };
});
