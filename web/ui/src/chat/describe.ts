// Events in words: what happened in a chat, for the timeline and for the list of chats.
import { EventType, type MatrixClient, type MatrixEvent, MsgType, type Room } from "matrix-js-sdk";
import { DecryptionFailureCode } from "matrix-js-sdk/lib/crypto-api";
import { t } from "../i18n";
import { localpart, nameOf } from "./context";

const changes = new Set<string>([
    EventType.RoomCreate,
    EventType.RoomMember,
    EventType.RoomName,
    EventType.RoomTopic,
    EventType.RoomAvatar,
    EventType.RoomEncryption,
    EventType.RoomPowerLevels,
    EventType.RoomJoinRules,
    EventType.RoomHistoryVisibility,
    EventType.RoomPinnedEvents,
    EventType.RoomTombstone,
]);

const callNotices = new Set(["org.matrix.msc4075.rtc.notification", "m.rtc.notification"]);

/** kindOf says how an event stands in the timeline; undefined: not at all. */
export function kindOf(event: MatrixEvent): "message" | "change" | undefined {
    const type = event.getType();
    if (event.isRelation("m.replace") || event.isRelation("m.annotation")) return undefined;
    if (type === EventType.RoomMessage || type === EventType.RoomMessageEncrypted || type === EventType.Sticker) {
        if (event.getContent()["msgtype"] === "m.key.verification.request") return undefined;
        return "message";
    }
    if (callNotices.has(type)) return "change";
    if (!event.isState() || !changes.has(type)) return undefined;
    if (type === EventType.RoomMember && !memberChange(event)) return undefined;
    return "change";
}

/** isShown says whether an event is one that the list of chats tells about. */
export function isShown(event: MatrixEvent): boolean {
    const kind = kindOf(event);
    if (kind === "message") return true;
    return kind === "change" && event.getType() !== EventType.RoomPowerLevels;
}

type MemberChange = "joined" | "left" | "invited" | "declined" | "withdrawn" | "removed" | "banned" | "unbanned" | "knocked" | "renamed" | "named" | "unnamed" | "picture";

/** memberChange tells what a membership event means; undefined when nothing visible changed. */
export function memberChange(event: MatrixEvent): MemberChange | undefined {
    const now = event.getContent();
    const before = event.getPrevContent();
    const own = event.getSender() === event.getStateKey();
    const was = (before["membership"] as string | undefined) ?? "leave";
    switch (now["membership"]) {
        case "join":
            if (was !== "join") return "joined";
            if (before["displayname"] !== now["displayname"]) return !before["displayname"] ? "named" : !now["displayname"] ? "unnamed" : "renamed";
            return before["avatar_url"] !== now["avatar_url"] ? "picture" : undefined;
        case "invite":
            return was === "invite" ? undefined : "invited";
        case "knock":
            return "knocked";
        case "ban":
            return "banned";
        case "leave":
            if (own) return was === "invite" ? "declined" : was === "leave" ? undefined : "left";
            return was === "ban" ? "unbanned" : was === "invite" ? "withdrawn" : was === "leave" ? undefined : "removed";
        default:
            return undefined;
    }
}

const str = (v: unknown): string => (typeof v === "string" ? v : "");

/** describe tells a change in one sentence. */
export function describe(room: Room, event: MatrixEvent): string {
    const sender = event.getSender() ?? "";
    const who = nameOf(event.sender ?? room.getMember(sender), sender);
    const content = event.getContent();
    if (callNotices.has(event.getType())) return t("event.call", { who });
    switch (event.getType()) {
        case EventType.RoomCreate:
            return t("event.created", { who });
        case EventType.RoomMember: {
            const target = event.getStateKey() ?? "";
            const before = event.getPrevContent();
            const whom = str(content["displayname"]) || str(before["displayname"]) || nameOf(event.target ?? room.getMember(target), target);
            const change = memberChange(event);
            switch (change) {
                case "joined":
                case "left":
                case "declined":
                case "knocked":
                case "picture":
                    return t(`event.member.${change}`, { who: whom });
                case "named":
                    return t("event.member.named", { who: localpart(target), name: str(content["displayname"]) });
                case "unnamed":
                    return t("event.member.unnamed", { who: str(before["displayname"]) });
                case "renamed":
                    return t("event.member.renamed", { who: str(before["displayname"]), name: str(content["displayname"]) });
                case "invited":
                case "withdrawn":
                case "removed":
                case "banned":
                case "unbanned":
                    return t(`event.member.${change}`, { who, whom });
                default:
                    return "";
            }
        }
        case EventType.RoomName:
            return str(content["name"]) ? t("event.name", { who, name: str(content["name"]) }) : t("event.nameRemoved", { who });
        case EventType.RoomTopic:
            return str(content["topic"]) ? t("event.topic", { who, topic: str(content["topic"]) }) : t("event.topicRemoved", { who });
        case EventType.RoomAvatar:
            return t("event.picture", { who });
        case EventType.RoomEncryption:
            return t("event.encryption", { who });
        case EventType.RoomPowerLevels:
            return t("event.roles", { who });
        case EventType.RoomJoinRules:
            return content["join_rule"] === "public" ? t("event.open", { who }) : t("event.closed", { who });
        case EventType.RoomHistoryVisibility:
            return t("event.history", { who });
        case EventType.RoomPinnedEvents:
            return t("event.pinned", { who });
        case EventType.RoomTombstone:
            return t("event.moved", { who });
        default:
            return "";
    }
}

/** undecryptable explains why a message cannot be read, and what would help. */
export function undecryptable(event: MatrixEvent): string {
    switch (event.decryptionFailureReason) {
        case DecryptionFailureCode.HISTORICAL_MESSAGE_NO_KEY_BACKUP:
        case DecryptionFailureCode.HISTORICAL_MESSAGE_BACKUP_UNCONFIGURED:
            return t("message.locked.confirm");
        case DecryptionFailureCode.HISTORICAL_MESSAGE_WORKING_BACKUP:
            return t("message.locked.notInBackup");
        case DecryptionFailureCode.HISTORICAL_MESSAGE_USER_NOT_JOINED:
            return t("message.locked.notJoined");
        case DecryptionFailureCode.MEGOLM_KEY_WITHHELD:
        case DecryptionFailureCode.MEGOLM_KEY_WITHHELD_FOR_UNVERIFIED_DEVICE:
            return t("message.locked.withheld");
        case DecryptionFailureCode.SENDER_IDENTITY_PREVIOUSLY_VERIFIED:
        case DecryptionFailureCode.UNSIGNED_SENDER_DEVICE:
        case DecryptionFailureCode.UNKNOWN_SENDER_DEVICE:
            return t("message.locked.sender");
        default:
            return t("message.locked.waiting");
    }
}

/** summary is a message in one line of plain text. */
export function summary(event: MatrixEvent): string {
    if (event.isRedacted()) return t("message.deleted");
    if (event.isDecryptionFailure()) return t("message.locked.brief");
    if (event.isBeingDecrypted() || event.getType() === EventType.RoomMessageEncrypted) return t("message.locked.brief");
    const content = event.getContent();
    const body = stripReply(str(content["body"]));
    switch (content["msgtype"]) {
        case MsgType.Image:
            return t("message.kind.image");
        case MsgType.Video:
            return t("message.kind.video");
        case MsgType.Audio:
            return t("message.kind.audio");
        case MsgType.File:
            return t("message.kind.file", { name: str(content["filename"]) || body });
        case MsgType.Emote:
            return body;
        default:
            return event.getType() === EventType.Sticker ? t("message.kind.sticker") : body;
    }
}

/** stripReply removes the quoted text that older clients put before a reply. */
export function stripReply(body: string): string {
    if (!body.startsWith("> ")) return body;
    const lines = body.split("\n");
    let i = 0;
    while (i < lines.length && lines[i]!.startsWith(">")) i++;
    return i < lines.length && lines[i] === "" ? lines.slice(i + 1).join("\n") : body;
}

/** preview is the line under a chat's name. */
export function preview(client: MatrixClient, room: Room, event: MatrixEvent, direct: boolean): string {
    if (kindOf(event) === "change") return describe(room, event);
    const sender = event.getSender() ?? "";
    const text = summary(event);
    if (sender === client.getUserId()) return t("rooms.you", { text });
    return direct ? text : t("rooms.from", { name: nameOf(event.sender ?? room.getMember(sender), sender), text });
}
