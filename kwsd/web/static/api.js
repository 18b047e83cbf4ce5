// Requests to the page's server: JSON there and back, and errors in words.

export class Refused extends Error {}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Refused("The page's server is away. It is tried again every second.");
  }
  if (response.ok) return response;
  let message = `The server answers ${response.status}.`;
  try {
    ({ message } = await response.json());
  } catch {
    // it is no answer of ours
  }
  throw new Refused(message);
}

export const get = async (path) => (await send(path)).json();
export const bytes = async (path) => (await send(path)).arrayBuffer();
export const post = async (path, body) =>
  (
    await send(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    })
  ).json();
