// A person who signs in with matrix-js-sdk's OAuth 2.0, as an application that
// registers itself; the browser is played by fetch. Prints one line of JSON.
//
// usage: node oauth.mjs BASE_URL LOCALPART PASSWORD
import { createClient } from "matrix-js-sdk";
import { OAuth2, isValidAuthMetadata } from "matrix-js-sdk/lib/oauth/index.js";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { Browser } from "./browser.mjs";

logger.setLevel?.("error");
for (const k of ["debug", "info", "log"]) console[k] = () => {};

const [baseUrl, localpart, password] = process.argv.slice(2);
const redirectUri = "https://app.client.test/callback";

async function metadata(path) {
  const res = await fetch(baseUrl + path);
  const body = await res.json();
  if (!res.ok || !isValidAuthMetadata(body)) throw new Error(`${path}: the library refuses the metadata`);
  return JSON.stringify(body);
}

const whoami = async (token) => {
  const res = await fetch(`${baseUrl}/_matrix/client/v3/account/whoami`, { headers: { authorization: `Bearer ${token}` } });
  return { status: res.status, ...(await res.json()) };
};

const status = async (p) => p.then(() => 200, (e) => e.httpStatus ?? String(e));

async function main() {
  const found = await metadata("/_matrix/client/v1/auth_metadata");
  const meta = JSON.parse(found);
  const out = {
    same: found === (await metadata("/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"))
      && found === JSON.stringify(await createClient({ baseUrl }).getAuthMetadata()),
  };
  const register = () => OAuth2.registerClient(meta, {
    client_name: "A test", client_uri: "https://client.test/", application_type: "web", redirect_uris: [redirectUri],
    logo_uri: "https://client.test/logo.png",
  });
  const clientId = await register();
  out.deduplicated = clientId === (await register());

  const browser = new Browser(baseUrl, localpart, password);
  const login = async (mode, scope) => {
    const oauth = new OAuth2(meta, { clientId });
    const state = `a+b/c=d e&f%${mode}`;
    const back = await browser.signIn(await oauth.generateAuthorizationCodeGrantUrl(state, redirectUri, mode, undefined, scope?.(oauth.context.deviceId)));
    const got = new URLSearchParams(mode === "fragment" ? back.hash.slice(1) : back.search);
    if (got.get("state") !== state || got.get("iss") !== meta.issuer || !got.get("code")) throw new Error(`the answer is ${back}`);
    return { oauth, code: got.get("code"), tokens: await oauth.completeAuthorizationCodeGrant(got.get("code"), redirectUri) };
  };

  const a = await login("fragment");
  out.stable = { scope: a.tokens.scope, device: a.oauth.context.deviceId, who: await whoami(a.tokens.access_token), expires: a.tokens.expires_in };
  // matrix-rust-sdk's spelling.
  const b = await login("query", (d) => `urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:${d}`);
  out.unstable = { scope: b.tokens.scope, device: b.oauth.context.deviceId, who: await whoami(b.tokens.access_token) };

  // The callback was good once, in this browser.
  out.callbackAgain = (await browser.open(browser.callback)).status;
  out.callbackElsewhere = (await new Browser(baseUrl, localpart, password).open(browser.callback)).status;

  // Sixteen refreshes of which fifteen answers are lost.
  const pairs = await Promise.all(Array.from({ length: 16 }, () => a.oauth.performRefreshTokenGrant(a.tokens.refresh_token)));
  out.pairs = new Set(pairs.map((p) => `${p.access_token} ${p.refresh_token}`)).size;
  out.oldBeforeUse = (await whoami(a.tokens.access_token)).status;
  out.newPair = (await whoami(pairs[0].access_token)).status;
  out.oldAfterUse = await whoami(a.tokens.access_token);
  out.reuse = await status(a.oauth.performRefreshTokenGrant(a.tokens.refresh_token));
  out.afterReuse = await whoami(pairs[0].access_token);

  // A code that is traded twice ends what it began.
  const c = await login("fragment");
  out.codeAgain = await status(c.oauth.completeAuthorizationCodeGrant(c.code, redirectUri));
  out.afterCodeAgain = (await whoami(c.tokens.access_token)).status;

  // Signing out, as the library does it.
  const devices = async () => (await (await fetch(`${baseUrl}/_matrix/client/v3/devices`, { headers: { authorization: `Bearer ${b.tokens.access_token}` } })).json()).devices.length;
  out.devices = await devices();
  const d = await login("fragment");
  await d.oauth.revokeToken(d.tokens.refresh_token, "refresh_token");
  out.afterRevoke = (await whoami(d.tokens.access_token)).status;
  out.devicesAfter = await devices();
  await d.oauth.revokeToken("mrt_unknown");
  process.stdout.write(JSON.stringify(out) + "\n");
}

main().then(
  () => process.exit(0),
  (e) => {
    process.stderr.write(`${e.stack ?? e}\n`);
    process.exit(1);
  },
);
