// The card under a message with a link: what the page says of itself. The server fetches it, and so learns the link:
// therefore never in an encrypted chat, and only where the server says that it makes previews.
import { useEffect, useMemo, useState } from "react";
import { EventType, type IContent, type MatrixEvent, MsgType, type Room } from "matrix-js-sdk";
import { useClient } from "./context";
import { stripReply } from "./describe";
import { firstAddress, safeLink } from "./html";
import { useMedia } from "./media";

const str = (v: unknown): string => (typeof v === "string" ? v : "");

/** firstLink is the first link to a page that a message shows; not one in a spoiler, in code or in a quotation. */
export function firstLink(content: IContent): string | undefined {
    const type = content["msgtype"];
    if (type !== MsgType.Text && type !== MsgType.Notice && type !== MsgType.Emote) return undefined;
    let found: string | undefined;
    const html = content["format"] === "org.matrix.custom.html" ? str(content["formatted_body"]) : "";
    if (html) {
        const page = new DOMParser().parseFromString(html, "text/html").body;
        for (const el of page.querySelectorAll("mx-reply, blockquote, code, pre, [data-mx-spoiler]")) el.remove();
        found = [...page.querySelectorAll("a[href]")].map((a) => safeLink(a.getAttribute("href"))).find((h) => h && isPage(h)) ?? firstAddress(page.textContent ?? "");
    } else found = firstAddress(stripReply(str(content["body"])));
    return found && isPage(found) ? found : undefined;
}

function isPage(href: string): boolean {
    if (!URL.canParse(href)) return false;
    const u = new URL(href);
    return (u.protocol === "https:" || u.protocol === "http:") && u.hostname !== "matrix.to" && !u.username && !u.password;
}

interface Found {
    title: string;
    description: string;
    host: string;
    image: string | undefined;
}

const capability = "io.element.msc4452.preview_url";

export function LinkCard({ room, event }: { room: Room; event: MatrixEvent }) {
    const client = useClient();
    const secret = event.isEncrypted() || !!room.currentState.getStateEvents(EventType.RoomEncryption, "");
    const content = event.getContent();
    const link = useMemo(() => (secret || event.status ? undefined : firstLink(content)), [secret, event.status, content]);
    const [found, setFound] = useState<Found & { link: string }>();
    useEffect(() => {
        if (!link) return;
        let gone = false;
        const ask = async (): Promise<void> => {
            const caps = await client.getCapabilities();
            if ((caps[capability] as { enabled?: unknown } | undefined)?.enabled !== true) return;
            const p = await client.getUrlPreview(link, event.getTs());
            const title = str(p["og:title"]);
            if (gone || !title) return;
            const image = str(p["og:image"]);
            setFound({ link, title, description: str(p["og:description"]), host: new URL(link).hostname.replace(/^www\./, ""), image: image.startsWith("mxc://") ? image : undefined });
        };
        ask().catch(() => undefined); // then there is none
        return () => {
            gone = true;
        };
    }, [client, event, link]);
    const image = useMedia(client, found?.image ? { url: found.image } : undefined, { size: { width: 320, height: 240, method: "scale" } }).address;
    if (!link || found?.link !== link) return null;
    return (
        <a className="linkcard" href={link} target="_blank" rel="noopener noreferrer nofollow" data-testid="linkcard">
            {image && <img src={image} alt="" />}
            <span className="linkcard-text">
                <span className="linkcard-host">{found.host}</span>
                <b>{found.title}</b>
                {found.description && <span className="linkcard-about">{found.description}</span>}
            </span>
        </a>
    );
}
