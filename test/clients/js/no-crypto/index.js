// matrix-bot-sdk reads these names when it is loaded, and uses nothing of them without encryption.
module.exports = { StoreType: {}, RequestType: {}, DeviceLists: class {} };
