// A person who signs in a second device with a QR code, by matrix-js-sdk's own
// implementation of both devices. Prints one line of JSON.
//
// usage: node qr.mjs BASE_URL LOCALPART PASSWORD
import { createClient } from "matrix-js-sdk";
import { OAuth2 } from "matrix-js-sdk/lib/oauth/index.js";
import {
  isSignInWithQRAvailable, linkNewDeviceByGeneratingQR, signInByGeneratingQR, MSC4108RendezvousSession, MSC4108SecureChannel, MSC4108SignInWithQR,
} from "matrix-js-sdk/lib/rendezvous/index.js";
import { QrCodeData, QrCodeIntent } from "@matrix-org/matrix-sdk-crypto-wasm";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { Browser } from "./browser.mjs";

logger.setLevel?.("error");
for (const k of ["debug", "info", "log"]) console[k] = () => {};

const [baseUrl, localpart, password] = process.argv.slice(2);
const redirectUri = "https://app.client.test/callback";
const stop = () => new AbortController().signal;

// firstDevice signs in as applications do, and has an identity for encryption.
async function firstDevice(meta, clientId, browser) {
  const oauth = new OAuth2(meta, { clientId });
  const back = await browser.signIn(await oauth.generateAuthorizationCodeGrantUrl("s", redirectUri, "query"));
  const t = await oauth.completeAuthorizationCodeGrant(back.searchParams.get("code"), redirectUri);
  return device(t.access_token, oauth.context.deviceId);
}

async function device(accessToken, deviceId) {
  const { user_id: userId } = await createClient({ baseUrl, accessToken }).whoami();
  const client = createClient({ baseUrl, accessToken, userId, deviceId });
  await client.initRustCrypto({ useIndexedDB: false });
  return client;
}

// within asks again until something holds, or the time is over.
async function within(ms, holds) {
  for (const end = Date.now() + ms; Date.now() < end; ) {
    if (await holds()) return true;
    await new Promise((ok) => setTimeout(ok, 200));
  }
  return false;
}

// scan is the side whose camera read the code.
function scan(code, existing) {
  const qr = QrCodeData.fromBytes(code);
  const session = new MSC4108RendezvousSession({ url: qr.rendezvousUrl });
  return { qr, flow: new MSC4108SignInWithQR(new MSC4108SecureChannel(session, qr.publicKey), true, existing) };
}

// link takes both devices through everything. answer is what the person says on the page.
async function link(old, young, { meta, clientId, browser, answer }) {
  const out = {};
  const [a, b] = await Promise.all([old.negotiateProtocols(), young.negotiateProtocols()]);
  out.serverName = a.serverName ?? b.serverName;
  out.checkCodes = old.checkCode === young.checkCode && /^\d\d$/.test(old.checkCode);
  const deviceId = Math.random().toString(36).slice(2, 12).toUpperCase();
  const [shown, asked] = await Promise.all([old.deviceAuthorizationGrant(), young.deviceAuthorizationGrant({ metadata: meta, clientId, deviceId })]);
  out.samePage = shown.verificationUri === asked.verificationUri && shown.verificationUri.startsWith(`${baseUrl}/link?user_code=`);
  const share = old.shareSecrets();
  share.catch(() => {}); // its failure is looked at below
  const page = await browser.open(shown.verificationUri);
  out.pageNames = page.status === 200 && page.text.includes(asked.userCode) && page.text.includes("A test") && page.text.includes(deviceId);
  out.answered = (await browser.open(`${baseUrl}/link`, { user_code: asked.userCode, answer })).status;
  if (answer !== "yes") {
    out.young = await young.completeLoginOnNewDevice({ clientId }).then(() => "signed in", (e) => e.code ?? String(e));
    out.old = await share.then(() => "shared", (e) => e.code ?? String(e));
    return out;
  }
  const tokens = await young.completeLoginOnNewDevice({ clientId });
  const client = await device(tokens.access_token, deviceId);
  const [sent, got] = await Promise.all([share, young.shareSecrets()]);
  out.secrets = Object.keys(sent.secrets).sort();
  const { type, ...secrets } = got.secrets;
  await client.getCrypto().importSecretsBundle(secrets);
  await client.startClient({ initialSyncLimit: 1 });
  await client.getCrypto().bootstrapCrossSigning({}); // with the secrets that came: the device signs itself
  await young.close();
  out.verified = await within(20000, async () => {
    await client.getCrypto().getUserDeviceInfo([client.getUserId()], true);
    return !!(await client.getCrypto().getDeviceVerificationStatus(client.getUserId(), deviceId))?.crossSigningVerified;
  });
  Object.assign(out, {
    user: client.getUserId(), scope: tokens.scope === `urn:matrix:client:api:* urn:matrix:client:device:${deviceId}`, refresh: !!tokens.refresh_token,
    ready: await client.getCrypto().isCrossSigningReady(),
  });
  client.stopClient();
  return out;
}

async function main() {
  const meta = await createClient({ baseUrl }).getAuthMetadata();
  const clientId = await OAuth2.registerClient(meta, { client_name: "A test", client_uri: "https://client.test/", application_type: "web", redirect_uris: [redirectUri] });
  const browser = new Browser(baseUrl, localpart, password);
  const client = await firstDevice(meta, clientId, browser);
  await client.getCrypto().bootstrapCrossSigning({});
  const out = { available: await isSignInWithQRAvailable(client) };
  const rest = { meta, clientId, browser, answer: "yes" };

  // The device that is signed in shows the code; the new one scans it.
  const shows = await linkNewDeviceByGeneratingQR(client, undefined, stop());
  let scanned = scan(shows.code);
  out.reciprocate = scanned.qr.mode === QrCodeIntent.Reciprocate && scanned.qr.serverName === client.getDomain();
  const url = scanned.qr.rendezvousUrl;
  out.shown = await link(shows, scanned.flow, rest);
  out.closed = (await fetch(url)).status;

  // The new device shows the code; the one that is signed in scans it.
  const young = await signInByGeneratingQR(createClient({ baseUrl }), undefined, stop());
  scanned = scan(young.code, client);
  out.login = scanned.qr.mode === QrCodeIntent.Login;
  out.scanned = await link(scanned.flow, young, rest);

  // The person declines on the page.
  const again = await linkNewDeviceByGeneratingQR(client, undefined, stop());
  out.declined = await link(again, scan(again.code).flow, { ...rest, answer: "no" });

  out.devices = (await client.getDevices()).devices.length;
  process.stdout.write(JSON.stringify(out) + "\n");
}

main().then(
  () => process.exit(0),
  (e) => {
    process.stderr.write(`${e.stack ?? e}\n`);
    process.exit(1);
  },
);
