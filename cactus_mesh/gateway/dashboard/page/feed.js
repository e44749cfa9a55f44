// The live stream: server-sent events read with fetch, because a key goes into a header and never into an address.

const SILENT_MS = 15_000;
const PAUSES_MS = [500, 1000, 2000, 4000, 8000];

export function follow({ key, took, text, state }) {
  let tries = 0;
  let wake = () => {};
  let ended = false;

  async function once() {
    const stop = new AbortController();
    let silent = setTimeout(() => stop.abort(), SILENT_MS);
    try {
      const headers = key() ? { authorization: `Bearer ${key()}` } : {};
      const response = await fetch("/dashboard/live", { headers, signal: stop.signal, cache: "no-store" });
      if (!response.ok) {
        await response.body?.cancel();
        return response.status;
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let waiting = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return 0;
        clearTimeout(silent);
        silent = setTimeout(() => stop.abort(), SILENT_MS);
        const events = (waiting + value).split("\n\n");
        waiting = events.pop();
        for (const event of events) hear(event);
      }
    } catch {
      return 0;
    } finally {
      clearTimeout(silent);
    }
  }

  function hear(event) {
    const kind = /^event: (.*)$/m.exec(event)?.[1];
    const data = /^data: (.*)$/m.exec(event)?.[1];
    if (!kind || !data) return;
    tries = 0;
    state("live");
    if (kind === "text") text(JSON.parse(data));
    else took(JSON.parse(data), kind === "snapshot");
  }

  async function run() {
    while (!ended) {
      const status = await once();
      if (status === 401) {
        state("locked");
        await new Promise((resolve) => { wake = resolve; });
        continue;
      }
      const pause = PAUSES_MS[Math.min(tries, PAUSES_MS.length - 1)];
      tries += 1;
      state("lost", { seconds: Math.ceil(pause / 1000), crowded: status === 429 });
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, pause);
      });
    }
  }

  run();
  return { retry: () => wake() };
}
