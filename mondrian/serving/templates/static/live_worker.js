// Shared by all tabs of a browser, so that they need one event stream: browsers allow six
// connections to a service. A tab sends the ids of the jobs that it shows, and gets their states.
import { openStream } from "./live.js";

const tabs = new Map(); // port -> ids
const states = new Map(); // id -> last state
let streamed = "";
let closeStream = () => {};

function update() {
  const ids = [...new Set([...tabs.values()].flat())].sort();
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
  update();
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
