// The event stream of one or more jobs. It reconnects until all of them have ended.

const RETRY_MS = 5000;
const TURN_MS = 5000;
const MAX_JOBS = 100; // in one stream; half of them take turns with those that do not fit

// onState gets {id, …} of a job, and {lost: true or false} when the connection changes.
// The first ids are those of jobs that are nearest to their end.
export function openStream(ids, onState) {
  const running = new Set(ids);
  let source = null;
  let timer = 0;
  let turn = 0;
  function chooseJobs() {
    const all = [...running];
    if (all.length <= MAX_JOBS) return all;
    const others = all.slice(MAX_JOBS / 2);
    const start = (turn * MAX_JOBS) / 2 % others.length;
    turn += 1;
    return [...all.slice(0, MAX_JOBS / 2), ...others.slice(start), ...others].slice(0, MAX_JOBS);
  }
  function connect() {
    clearTimeout(timer);
    source?.close();
    const followed = chooseJobs();
    if (followed.length < running.size) timer = setTimeout(connect, TURN_MS);
    source = new EventSource(`/live?ids=${followed.join(",")}`);
    source.onopen = () => onState({ lost: false });
    source.onmessage = (event) => {
      const state = JSON.parse(event.data);
      if (state.ended) running.delete(state.id);
      onState(state);
      if (!running.size) source.close();
      else if (!followed.some((id) => running.has(id))) connect();
    };
    source.onerror = () => {
      onState({ lost: true });
      if (source.readyState !== EventSource.CLOSED) return; // the browser connects again
      clearTimeout(timer);
      timer = setTimeout(connect, RETRY_MS);
    };
  }
  connect();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}
