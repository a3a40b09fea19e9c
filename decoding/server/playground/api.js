/** Requests to the server that the page came from. */

const KEY = "decoding api key";

/** An answer that is an error. parameter: the field of the request that it is about, or null. */
export class ApiError extends Error {
  constructor(status, { message, param }) {
    super(message);
    this.status = status;
    this.parameter = param ? param.split(/[[.]/)[0] : null;
  }
}

/** Return the API key of this tab; it is kept nowhere else. */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

function headers(more = {}) {
  const key = apiKey();
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

async function checked(response) {
  if (response.ok) return response;
  const fallback = { message: `the server answers ${response.status}`, param: null };
  let body = null;
  try {
    body = await response.json();
  } catch {
    // an answer that is not of this server, as of a proxy
  }
  throw new ApiError(response.status, body?.error ?? fallback);
}

async function get(path) {
  return (await checked(await fetch(path, { headers: headers() }))).json();
}

async function post(path, body, signal) {
  const options = { method: "POST", headers: headers({ "content-type": "application/json" }), signal };
  return checked(await fetch(path, { ...options, body: JSON.stringify(body) }));
}

/** Return the names of the server's models. */
export async function models() {
  return (await get("v1/models")).data.map((model) => model.id);
}

/** Return the JSON Schemas of the fields of both routes, by name, with the limits of this server. */
export async function schemasOfFields() {
  const { paths } = await get("openapi.json");
  const fields = (path) => paths[path].post.requestBody.content["application/json"].schema.properties;
  return { completion: fields("/v1/completions"), explain: fields("/v1/explain") };
}

/** Return what each stage did to the distribution of one token. */
export async function explain(body, signal) {
  return (await post("v1/explain", body, signal)).json();
}

/** Yield the choices of a streamed completion, piece by piece. Throws ApiError for an error in the stream, too. */
export async function* complete(body, signal) {
  const response = await post("v1/completions", { ...body, stream: true }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(200, chunk.error);
    yield* chunk.choices;
  }
  throw new Error("the connection ended before the completion did");
}

/** Yield the data of server-sent events; comments are left out. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: ")) yield line.slice(6);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
