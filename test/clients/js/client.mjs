// A person with matrix-js-sdk: makes an encrypted room with a bot, says
// something, and waits for the decrypted answer. Prints one line of JSON.
//
// usage: node client.mjs BASE_URL LOCALPART PASSWORD BOT_USER_ID [sliding]
import { createClient, ClientEvent, MatrixEventEvent, RoomEvent, RoomMemberEvent, MsgType, EventType } from "matrix-js-sdk";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";
import { logger } from "matrix-js-sdk/lib/logger.js";

logger.setLevel?.("error");
for (const k of ["debug", "info", "log"]) console[k] = () => {};

const [baseUrl, localpart, password, bot, way] = process.argv.slice(2);
const say = (o) => process.stdout.write(JSON.stringify(o) + "\n");

const limit = (ms, what, p) =>
  Promise.race([p, new Promise((_, no) => setTimeout(() => no(new Error(`${what} did not happen within ${ms} ms`)), ms))]);

async function main() {
  const login = await createClient({ baseUrl }).loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user: localpart },
    password,
    initial_device_display_name: "matrix-js-sdk",
  });
  const client = createClient({ baseUrl, userId: login.user_id, deviceId: login.device_id, accessToken: login.access_token });
  await client.initRustCrypto({ useIndexedDB: false });
  // As Element Web asks with its sliding sync switched on.
  const state = [["m.room.create", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"], ["m.room.power_levels", ""], ["m.room.join_rules", ""]];
  const slidingSync = way === "sliding"
    ? new SlidingSync(baseUrl, new Map([["all", { ranges: [[0, 19]], timeline_limit: 1, required_state: state }]]),
      { timeline_limit: 50, required_state: [["*", "*"], ["m.room.member", "$LAZY"]] }, client, 20000)
    : undefined;
  await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true, slidingSync });
  await limit(20000, "the first sync", new Promise((ok) => {
    if (client.isInitialSyncComplete()) return ok();
    client.on(ClientEvent.Sync, (s) => s === "PREPARED" && ok());
  }));

  const { room_id } = await client.createRoom({
    preset: "private_chat",
    name: "clients",
    invite: [bot],
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
  });
  await limit(20000, "the bot's join", new Promise((ok) => {
    const look = () => client.getRoom(room_id)?.getMember(bot)?.membership === "join" && ok();
    client.on(RoomMemberEvent.Membership, look);
    // Who joins before the room's first sync is told of before the client knows the room.
    client.on(ClientEvent.Room, look);
    look();
  }));

  // The library tells of members before it has looked at the room's encryption.
  await limit(20000, "the room's encryption", (async () => {
    while (!(await client.getCrypto().isEncryptionEnabledInRoom(room_id))) await new Promise((ok) => setTimeout(ok, 20));
  })());

  const answer = limit(30000, "the bot's answer", new Promise((ok) => {
    const look = (ev) => {
      if (ev.getRoomId() === room_id && ev.getSender() === bot && ev.getType() === EventType.RoomMessage) ok(ev);
    };
    client.on(MatrixEventEvent.Decrypted, look);
    client.on(RoomEvent.Timeline, look);
  }));
  const sent = await client.sendEvent(room_id, EventType.RoomMessage, { msgtype: MsgType.Text, body: "ping from js ✓" });
  const ev = await answer;

  // A file, encrypted or not, goes through authenticated media.
  const bytes = new Uint8Array(70000).map((_, i) => i % 251);
  const up = await client.uploadContent(new Blob([bytes]), { type: "application/octet-stream", name: "bytes.bin" });
  const url = client.mxcUrlToHttp(up.content_uri, undefined, undefined, undefined, false, true, true);
  const down = new Uint8Array(await (await fetch(url, { headers: { Authorization: `Bearer ${login.access_token}` } })).arrayBuffer());

  say({
    room: room_id,
    sent: sent.event_id,
    answer: ev.getContent().body,
    encrypted: ev.isEncrypted(),
    shield: (await client.getCrypto().getEncryptionInfoForEvent(ev))?.shieldColour,
    media: down.length === bytes.length && down.every((b, i) => b === bytes[i]),
    sliding: slidingSync?.getListData("all")?.joinedCount,
    versions: (await client.getVersions()).versions.at(-1),
  });
  client.stopClient();
  await client.logout(true);
}

main().then(
  () => process.exit(0),
  (e) => {
    process.stderr.write(`${e.stack ?? e}\n`);
    process.exit(1);
  },
);
