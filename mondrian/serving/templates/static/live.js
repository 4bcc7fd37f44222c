// The event stream of one or more jobs. It reconnects until all of them have ended.

const RETRY_MS = 5000;
const MAX_JOBS = 100; // in one stream

// onState gets {id, …} of a job, and {lost: true or false} when the connection changes.
export function openStream(ids, onState) {
  const running = new Set(ids.slice(0, MAX_JOBS));
  let source = null;
  let timer = 0;
  function connect() {
    source = new EventSource(`/live?ids=${[...running].join(",")}`);
    source.onopen = () => onState({ lost: false });
    source.onmessage = (event) => {
      const state = JSON.parse(event.data);
      if (state.ended) running.delete(state.id);
      if (!running.size) source.close();
      onState(state);
    };
    source.onerror = () => {
      onState({ lost: true });
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(connect, RETRY_MS);
    };
  }
  connect();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}
