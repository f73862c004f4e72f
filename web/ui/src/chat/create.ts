// Making chats.
import { EventType, type ICreateRoomOpts, type MatrixClient, Preset, Visibility } from "matrix-js-sdk";
import { directWith, markDirect } from "./rooms";

const encryption = { type: EventType.RoomEncryption, state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };
// Everybody may start and join calls. The server takes this list instead of its own, so the usual entries stand here too.
const callPowers = {
    events: {
        "m.room.name": 50,
        "m.room.avatar": 50,
        "m.room.topic": 50,
        "m.room.canonical_alias": 50,
        "m.room.encryption": 100,
        "m.room.history_visibility": 100,
        "m.room.power_levels": 100,
        "m.room.server_acl": 100,
        "m.room.tombstone": 100,
        "org.matrix.msc3401.call": 0,
        "org.matrix.msc3401.call.member": 0,
    },
};

/** startDirect opens the chat with a person, making it if there is none. Gives its room ID. */
export async function startDirect(client: MatrixClient, userId: string): Promise<string> {
    const there = directWith(client, userId);
    if (there) return there.roomId;
    const { room_id: id } = await client.createRoom({
        preset: Preset.TrustedPrivateChat,
        is_direct: true,
        invite: [userId],
        initial_state: [encryption],
        power_level_content_override: callPowers,
    });
    await markDirect(client, id, userId);
    await appears(client, id);
    return id;
}

export interface NewGroup {
    name: string;
    topic: string;
    /** People to invite. */
    people: string[];
    /** Everybody on this server can find and join it; not encrypted, so that they can read what was before. */
    open: boolean;
}

export async function createGroup(client: MatrixClient, group: NewGroup): Promise<string> {
    const options: ICreateRoomOpts = {
        name: group.name,
        ...(group.topic ? { topic: group.topic } : {}),
        invite: group.people,
        preset: group.open ? Preset.PublicChat : Preset.PrivateChat,
        visibility: group.open ? Visibility.Public : Visibility.Private,
        initial_state: group.open ? [] : [encryption],
        power_level_content_override: callPowers,
    };
    const { room_id: id } = await client.createRoom(options);
    await appears(client, id);
    return id;
}

// appears waits until a new chat has come by sync, so that opening it shows no hole.
async function appears(client: MatrixClient, roomId: string): Promise<void> {
    for (let i = 0; i < 50 && !client.getRoom(roomId)?.currentState.getStateEvents(EventType.RoomCreate, ""); i++) await new Promise((r) => setTimeout(r, 100));
}
