// A phone that scans QR codes: first one that signs it in, then others that it lets in.
// By matrix-js-sdk's own implementation of the scanning device. It reads commands and
// writes what it sees, one line of JSON each.
//
//   {"join": CODE}    scan the code of a device that is signed in. Answers {number, userCode},
//                     then {user, device, texts} with what it reads of all rooms, or {failed}.
//   {"admit": CODE}   scan the code of a device that is not. Answers {number}, then {admitted}
//                     when the person allowed it on the page, or {failed}.
//
// usage: node phone.mjs BASE_URL LOCALPART PASSWORD; CODE is in base64
import { createInterface } from "node:readline";
import { createClient } from "matrix-js-sdk";
import { OAuth2 } from "matrix-js-sdk/lib/oauth/index.js";
import { MSC4108RendezvousSession, MSC4108SecureChannel, MSC4108SignInWithQR } from "matrix-js-sdk/lib/rendezvous/index.js";
import { initAsync, QrCodeData, QrCodeIntent } from "@matrix-org/matrix-sdk-crypto-wasm";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { Browser } from "./browser.mjs";

logger.setLevel?.("error");
for (const k of ["debug", "info", "log"]) console[k] = () => {};

const [baseUrl, localpart, password] = process.argv.slice(2);
const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
let client;

function scan(code, intent, existing) {
  const qr = QrCodeData.fromBytes(new Uint8Array(Buffer.from(code, "base64")));
  if (qr.mode !== intent) throw new Error("a code of the other kind");
  return new MSC4108SignInWithQR(new MSC4108SecureChannel(new MSC4108RendezvousSession({ url: qr.rendezvousUrl }), qr.publicKey), true, existing);
}

async function join(code) {
  const flow = scan(code, QrCodeIntent.Reciprocate);
  await flow.negotiateProtocols();
  const metadata = await createClient({ baseUrl }).getAuthMetadata();
  const clientId = await OAuth2.registerClient(metadata, { client_name: "A phone", client_uri: "https://client.test/", application_type: "web", redirect_uris: ["https://client.test/callback"] });
  const deviceId = Math.random().toString(36).slice(2, 12).toUpperCase();
  const { userCode } = await flow.deviceAuthorizationGrant({ metadata, clientId, deviceId });
  say({ number: flow.checkCode, userCode });
  const { access_token: accessToken } = await flow.completeLoginOnNewDevice({ clientId });
  const { user_id: userId } = await createClient({ baseUrl, accessToken }).whoami();
  client = createClient({ baseUrl, accessToken, userId, deviceId });
  await client.initRustCrypto({ useIndexedDB: false });
  const { type, ...secrets } = (await flow.shareSecrets()).secrets;
  await client.getCrypto().importSecretsBundle(secrets);
  await flow.close();
  await client.startClient({ initialSyncLimit: 30 });
  await client.getCrypto().bootstrapCrossSigning({});
  await client.getCrypto().checkKeyBackupAndEnable();
  await client.getCrypto().restoreKeyBackup();
  while (!client.isInitialSyncComplete()) await new Promise((ok) => setTimeout(ok, 50));
  // The keys are there: what is encrypted is tried again.
  const events = client.getRooms().flatMap((r) => r.getLiveTimeline().getEvents());
  for (const e of events) await client.decryptEventIfNeeded(e);
  say({ user: userId, device: deviceId, texts: events.filter((e) => e.getType() === "m.room.message").map((e) => e.getContent().body) });
}

async function admit(code) {
  const flow = scan(code, QrCodeIntent.Login, client);
  await flow.negotiateProtocols();
  say({ number: flow.checkCode });
  const { verificationUri } = await flow.deviceAuthorizationGrant();
  const share = flow.shareSecrets();
  share.catch(() => {});
  const browser = new Browser(baseUrl, localpart, password);
  let page = await browser.open(verificationUri);
  if (new URL(page.url).pathname === "/login") page = await browser.open(page.url, { username: localpart, password });
  const userCode = new URL(verificationUri).searchParams.get("user_code");
  if (!page.text.includes(userCode)) throw new Error(`the page has not got the code: ${page.url}`);
  await browser.open(`${baseUrl}/link`, { user_code: userCode, answer: "yes" });
  await share;
  say({ admitted: userCode });
}

await initAsync();
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  await (command.join ? join(command.join) : admit(command.admit)).catch((e) => say({ failed: e.code ?? String(e.stack ?? e) }));
}
process.exit(0);
