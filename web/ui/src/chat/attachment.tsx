// What a message carries: pictures, videos, sound and other files, plain or encrypted.
import { useState } from "react";
import { type MatrixEvent, MsgType } from "matrix-js-sdk";
import { Button as RawButton, Modal, ModalOverlay, Dialog as AriaDialog } from "react-aria-components";
import { Icon, IconButton, Spinner, toast } from "../design";
import { t } from "../i18n";
import { isEncryptedFile } from "./attachments";
import { nameOf, useClient } from "./context";
import { fullTime, size as sizeText } from "./format";
import { download, save, type Source, useMedia } from "./media";

const widest = 360;
const tallest = 320;

const num = (v: unknown): number | undefined => (typeof v === "number" && Number.isFinite(v) && v > 0 ? v : undefined);
const str = (v: unknown): string => (typeof v === "string" ? v : "");

/** sourceOf finds the file of a message; the thumbnail if there is one and it is asked for. */
export function sourceOf(event: MatrixEvent, thumbnail = false): { source: Source; type: string } | undefined {
    const content = event.getContent();
    const info = (content["info"] ?? {}) as Record<string, unknown>;
    if (thumbnail) {
        const type = str((info["thumbnail_info"] as Record<string, unknown> | undefined)?.["mimetype"]) || "image/jpeg";
        if (isEncryptedFile(info["thumbnail_file"])) return { source: { file: info["thumbnail_file"] }, type };
        if (str(info["thumbnail_url"]).startsWith("mxc://")) return { source: { url: str(info["thumbnail_url"]) }, type };
        return undefined;
    }
    const type = str(info["mimetype"]);
    if (isEncryptedFile(content["file"])) return { source: { file: content["file"] }, type };
    if (str(content["url"]).startsWith("mxc://")) return { source: { url: str(content["url"]) }, type };
    return undefined;
}

export function fileName(event: MatrixEvent): string {
    const content = event.getContent();
    return str(content["filename"]) || str(content["body"]) || t("attachment.unnamed");
}

/** fit gives the size at which a picture is shown, so that its place is kept before it is loaded. */
export function fit(w: number | undefined, h: number | undefined): { width: number; height: number } {
    if (!w || !h) return { width: 240, height: 180 };
    const scale = Math.min(1, widest / w, tallest / h);
    return { width: Math.max(48, Math.round(w * scale)), height: Math.max(48, Math.round(h * scale)) };
}

export function Attachment({ event, type, onOpen }: { event: MatrixEvent; type: string; onOpen: () => void }) {
    switch (type) {
        case MsgType.Image:
            return <Picture event={event} onOpen={onOpen} />;
        case MsgType.Video:
            return <Video event={event} />;
        case MsgType.Audio:
            return <Audio event={event} />;
        default:
            return <FileCard event={event} />;
    }
}

function usePreview(event: MatrixEvent) {
    const client = useClient();
    const full = sourceOf(event);
    const info = (event.getContent()["info"] ?? {}) as Record<string, unknown>;
    const animated = str(info["mimetype"]) === "image/gif";
    const thumb = animated ? undefined : sourceOf(event, true);
    const chosen = thumb ?? full;
    const box = fit(num(info["w"]), num(info["h"]));
    const small = chosen && "url" in chosen.source && !thumb && !animated ? { size: { ...box, method: "scale" as const } } : {};
    return { media: useMedia(client, chosen?.source, { type: chosen?.type, ...small }), box, missing: !chosen };
}

function Picture({ event, onOpen }: { event: MatrixEvent; onOpen: () => void }) {
    const { media, box, missing } = usePreview(event);
    const name = fileName(event);
    if (missing) return <FileCard event={event} />;
    return (
        <RawButton className="picture" style={{ width: box.width, aspectRatio: `${box.width} / ${box.height}` }} onPress={media.failed ? media.retry : onOpen} aria-label={media.failed ? t("attachment.loadAgain") : t("attachment.openPicture", { name })} data-testid="picture">
            {media.address ? (
                <img src={media.address} alt={name} width={box.width} height={box.height} draggable={false} />
            ) : media.failed ? (
                <span className="picture-note">
                    <Icon name="retry" />
                    {t("attachment.loadAgain")}
                </span>
            ) : (
                <Spinner />
            )}
        </RawButton>
    );
}

function Video({ event }: { event: MatrixEvent }) {
    const client = useClient();
    const [play, setPlay] = useState(false);
    const info = (event.getContent()["info"] ?? {}) as Record<string, unknown>;
    const box = fit(num(info["w"]), num(info["h"]));
    const thumb = sourceOf(event, true);
    const poster = useMedia(client, thumb?.source, { type: thumb?.type });
    const full = sourceOf(event);
    const media = useMedia(client, play ? full?.source : undefined, { type: full?.type });
    const name = fileName(event);
    if (!full) return <FileCard event={event} />;
    if (play && media.address)
        return (
            <video className="video" src={media.address} controls autoPlay style={{ width: box.width, aspectRatio: `${box.width} / ${box.height}` }} aria-label={name} data-testid="video">
                <track kind="captions" />
            </video>
        );
    return (
        <RawButton
            className="picture"
            style={{ width: box.width, aspectRatio: `${box.width} / ${box.height}` }}
            onPress={() => {
                if (media.failed) media.retry();
                setPlay(true);
            }}
            aria-label={t("attachment.playVideo", { name })}
            data-testid="video"
        >
            {poster.address && <img src={poster.address} alt="" draggable={false} />}
            <span className="picture-play">{play && !media.failed ? <Spinner /> : media.failed ? <Icon name="retry" /> : <span className="triangle" />}</span>
            {num(info["duration"]) && <span className="picture-length">{length(num(info["duration"])!)}</span>}
        </RawButton>
    );
}

function length(ms: number): string {
    const s = Math.round(ms / 1000);
    return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
}

function Audio({ event }: { event: MatrixEvent }) {
    const client = useClient();
    const [play, setPlay] = useState(false);
    const full = sourceOf(event);
    const media = useMedia(client, play ? full?.source : undefined, { type: full?.type });
    if (!full) return <FileCard event={event} />;
    return (
        <div className="audio">
            <FileCard event={event} />
            {play && media.address ? (
                <audio src={media.address} controls autoPlay aria-label={fileName(event)}>
                    <track kind="captions" />
                </audio>
            ) : (
                <RawButton className="linklike" onPress={() => (media.failed && media.retry(), setPlay(true))}>
                    {play && !media.failed ? t("app.loading") : t("attachment.listen")}
                </RawButton>
            )}
        </div>
    );
}

function FileCard({ event }: { event: MatrixEvent }) {
    const client = useClient();
    const [busy, setBusy] = useState(false);
    const full = sourceOf(event);
    const name = fileName(event);
    const bytes = num((event.getContent()["info"] as Record<string, unknown> | undefined)?.["size"]);
    const get = async () => {
        if (!full) return;
        setBusy(true);
        try {
            save(await download(client, full.source), name);
        } catch {
            toast(t("attachment.failed", { name }));
        } finally {
            setBusy(false);
        }
    };
    return (
        <RawButton className="file" onPress={() => void get()} isDisabled={!full || busy} data-testid="file">
            <span className="hf-hidden">{t("attachment.downloadVerb")}</span>
            <span className="file-icon">{busy ? <Spinner /> : <Icon name="file" />}</span>
            <span className="file-text">
                <span className="file-name">{name}</span>
                <span className="file-size">{full ? (bytes ? sizeText(bytes) : "") : t("attachment.gone")}</span>
            </span>
            <Icon name="download" />
        </RawButton>
    );
}

/** Lightbox shows one picture as large as the window allows. */
export function Lightbox({ event, onClose, onStep }: { event: MatrixEvent; onClose: () => void; onStep: (by: -1 | 1) => void }) {
    const client = useClient();
    const full = sourceOf(event);
    const media = useMedia(client, full?.source, { type: full?.type });
    const name = fileName(event);
    const sender = event.getSender() ?? "";
    return (
        <ModalOverlay
            className="lightbox"
            isOpen
            isDismissable
            onOpenChange={(open) => !open && onClose()}
        >
            <Modal className="lightbox-modal">
                <AriaDialog
                    className="lightbox-dialog"
                    aria-label={name}
                    data-testid="lightbox"
                >
                    <div
                        className="lightbox-inner"
                        onKeyDown={(e) => {
                            if (e.key === "ArrowLeft") onStep(-1);
                            if (e.key === "ArrowRight") onStep(1);
                        }}
                    >
                        <header>
                            <span className="lightbox-title">
                                <strong>{nameOf(event.sender, sender)}</strong>
                                <span>{fullTime(event.getTs())}</span>
                            </span>
                            <IconButton icon="download" label={t("attachment.download", { name })} onPress={() => full && void download(client, full.source).then((b) => save(b, name), () => toast(t("attachment.failed", { name })))} />
                            <IconButton icon="close" label={t("common.close")} onPress={onClose} autoFocus />
                        </header>
                        <div className="lightbox-stage" onClick={(e) => e.target === e.currentTarget && onClose()}>
                            {media.address ? <img src={media.address} alt={name} /> : media.failed ? <p>{t("attachment.failed", { name })}</p> : <Spinner />}
                        </div>
                    </div>
                </AriaDialog>
            </Modal>
        </ModalOverlay>
    );
}
