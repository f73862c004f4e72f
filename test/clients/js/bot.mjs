// A bot with matrix-bot-sdk: joins where it is invited and answers !hello. It prints
// "ready", and runs until it is ended. Run again with the same file it goes on from there.
//
// usage: node bot.mjs BASE_URL LOCALPART PASSWORD STORE_FILE
import sdk from "matrix-bot-sdk";

const { AutojoinRoomsMixin, LogLevel, LogService, MatrixAuth, MatrixClient, RichReply, SimpleFsStorageProvider } = sdk;
LogService.setLevel(LogLevel.ERROR);
const [baseUrl, localpart, password, file] = process.argv.slice(2);

const store = new SimpleFsStorageProvider(file);
let token = store.readValue("token");
if (!token) {
  token = (await new MatrixAuth(baseUrl).passwordLogin(localpart, password, "matrix-bot-sdk")).accessToken;
  store.storeValue("token", token);
}
const client = new MatrixClient(baseUrl, token, store);
AutojoinRoomsMixin.setupOnClient(client);
const me = await client.getUserId();
client.on("room.message", async (room, event) => {
  if (event.sender === me || event.content?.body !== "!hello") return;
  await client.sendReadReceipt(room, event.event_id);
  const answer = RichReply.createFor(room, event, `hello ${event.sender}`, `hello <b>${event.sender}</b>`);
  answer.msgtype = "m.notice";
  await client.sendMessage(room, answer);
});
await client.start();
console.log("ready");
