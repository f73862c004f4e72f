// Emoji to pick from: a hand-picked set; the system's own picker and :names: cover the rest.
const groups: [string, string][] = [
    ["faces", "😀 😃 😄 😁 😆 😅 😂 🙂 😉 😊 😍 😘 😋 😜 🤪 🤔 🤨 😐 😏 🙄 😬 😌 😴 😷 🤒 🤯 😎 🤓 😕 😟 😮 😳 🥺 😢 😭 😱 😤 😡 🥳 🤗 🤫 🤝"],
    ["hands", "👍 👎 👌 ✌️ 🤞 👏 🙌 🙏 💪 👋 ✋ 👆 👇 👉 👈 ☝️ ✍️ 👀 🫡 🤷 🤦 🙋 💁 🏃"],
    ["things", "❤️ 🧡 💛 💚 💙 💜 🖤 💔 ✨ ⭐ 🔥 🎉 🎂 🎁 🏆 ☕ 🍕 🍎 🍺 🌞 🌧️ ❄️ 🌱 🚗 ✈️ 🏠 🏥 🚑 🚒 💊"],
    ["signs", "✅ ☑️ ❌ ❗ ❓ ⚠️ ⛔ 🚨 📌 📎 📅 📈 📉 📝 📞 💬 💡 🔒 🔑 ⏰ ⏳ 🆗 🆘 💯 ➕ ➖ ➡️ ⬅️ 🔁 ♻️"],
];

// Names for ":thumb" in the composer.
const named: [string, string][] = [
    ["smile", "😄"], ["grin", "😁"], ["joy", "😂"], ["wink", "😉"], ["blush", "😊"], ["heart_eyes", "😍"], ["thinking", "🤔"], ["neutral", "😐"], ["roll_eyes", "🙄"],
    ["sleeping", "😴"], ["cool", "😎"], ["confused", "😕"], ["worried", "😟"], ["open_mouth", "😮"], ["cry", "😢"], ["sob", "😭"], ["scream", "😱"], ["angry", "😡"],
    ["party", "🥳"], ["hug", "🤗"], ["thumbsup", "👍"], ["thumbsdown", "👎"], ["ok", "👌"], ["clap", "👏"], ["pray", "🙏"], ["muscle", "💪"], ["wave", "👋"],
    ["eyes", "👀"], ["salute", "🫡"], ["shrug", "🤷"], ["facepalm", "🤦"], ["heart", "❤️"], ["sparkles", "✨"], ["star", "⭐"], ["fire", "🔥"], ["tada", "🎉"], ["cake", "🎂"],
    ["gift", "🎁"], ["coffee", "☕"], ["pizza", "🍕"], ["beer", "🍺"], ["sun", "🌞"], ["rain", "🌧️"], ["snow", "❄️"], ["car", "🚗"], ["plane", "✈️"], ["house", "🏠"],
    ["ambulance", "🚑"], ["check", "✅"], ["cross", "❌"], ["warning", "⚠️"], ["alarm", "🚨"], ["pin", "📌"], ["calendar", "📅"], ["memo", "📝"], ["phone", "📞"], ["bulb", "💡"],
    ["lock", "🔒"], ["key", "🔑"], ["clock", "⏰"], ["sos", "🆘"], ["hundred", "💯"], ["question", "❓"],
];

export const emoji = {
    quick: ["👍", "❤️", "😂", "😮", "😢", "🙏", "✅", "🎉"],
    groups: groups.map(([name, all]) => ({ name: name as "faces" | "hands" | "things" | "signs", all: all.split(" ") })),
    named,
};
