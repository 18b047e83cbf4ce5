// Requests to the page's server: JSON there and back, and errors in words.

export class Refused extends Error {
  constructor(message, code = "") {
    super(message);
    this.code = code;
  }
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Refused("The page's server is away. It is tried again every second.");
  }
  if (response.ok) return response;
  if (response.status === 401) throw new Refused("This session has ended.", "ended");
  let found = { message: `The server answers ${response.status}.` };
  try {
    found = await response.json();
  } catch {
    // it is no answer of ours
  }
  throw new Refused(found.message, found.code);
}

export const get = async (path) => (await send(path)).json();
/** Get what is no JSON, unless `signal` aborts it. */
export const bytes = async (path, signal) => (await send(path, { signal })).arrayBuffer();
export const post = async (path, body) =>
  (
    await send(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    })
  ).json();
/** Send a file as it is. */
export const upload = async (path, file) =>
  (
    await send(path, {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: file,
    })
  ).json();
