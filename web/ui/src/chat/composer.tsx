// Writing: text with Markdown, mentions and emoji, replies and edits, files by button, paste and drop.
import { useCallback, useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "react";
import { EventType, KnownMembership, type MatrixEvent, MsgType, RelationType, type Room, RoomStateEvent } from "matrix-js-sdk";
import { Dialog as AriaDialog, DialogTrigger, Popover } from "react-aria-components";
import { Avatar, Icon, IconButton, Progress } from "../design";
import { t } from "../i18n";
import { nameOf, useClient, useRefresh } from "./context";
import { stripReply } from "./describe";
import { draftOf, keepDraft } from "./drafts";
import { emoji } from "./emoji";
import { size } from "./format";
import { type Mention, toContent } from "./markdown";
import { Quote } from "./message";
import { type Upload, uploadsOf, useUploads } from "./uploads";

interface Props {
    room: Room;
    name: string;
    replyTo: MatrixEvent | undefined;
    editing: MatrixEvent | undefined;
    /** Ends replying or editing. */
    onDone: () => void;
    /** Edits the person's newest message. */
    onEditLast: () => void;
    files: File[];
    setFiles: (files: File[]) => void;
}

const typingMs = 20_000;

interface Suggestion {
    key: string;
    insert: string;
    label: string;
    detail?: string;
    mention?: Mention;
}

export function Composer({ room, name, replyTo, editing, onDone, onEditLast, files, setFiles }: Props) {
    const client = useClient();
    const me = client.getSafeUserId();
    const [text, setText] = useState(() => draftOf(room.roomId));
    const [mentions, setMentions] = useState<Mention[]>([]);
    const [caret, setCaret] = useState(0);
    const [picked, setPicked] = useState(0);
    const [hushed, setHushed] = useState("");
    const area = useRef<HTMLTextAreaElement>(null);
    const picker = useRef<HTMLInputElement>(null);
    const typingSince = useRef(0);
    const before = useRef("");
    const listId = useId();
    useRefresh(room, [RoomStateEvent.Events]);
    const maySend = room.maySendMessage();

    // An edit takes the place of the draft and gives it back.
    const editId = editing?.getId();
    useEffect(() => {
        if (!editing) return;
        before.current = draftOf(room.roomId);
        const body = stripReply(String(editing.getContent()["body"] ?? ""));
        setText(body);
        setMentions(
            ((editing.getContent()["m.mentions"]?.["user_ids"] as string[] | undefined) ?? []).map((userId) => ({ userId, name: nameOf(room.getMember(userId), userId) })),
        );
        requestAnimationFrame(() => {
            area.current?.focus();
            area.current?.setSelectionRange(body.length, body.length);
        });
        return () => {
            setText(before.current);
            setMentions([]);
        };
        // oxlint-disable-next-line react-hooks/exhaustive-deps
    }, [editId, room]);
    const replyId = replyTo?.getId();
    useEffect(() => {
        if (replyId) area.current?.focus();
    }, [replyId]);
    useEffect(() => {
        if (files.length) area.current?.focus();
    }, [files.length]);
    // On a phone the keyboard must not jump up with every chat that is opened.
    useEffect(() => {
        if (!matchMedia("(pointer: fine)").matches) return;
        area.current?.focus({ preventScroll: true });
        // A dialog that led here would give the focus back to the button that opened it.
        const keep = (e: Event): void => {
            e.preventDefault();
            area.current?.focus({ preventScroll: true });
        };
        const end = (): void => document.removeEventListener("react-aria-focus-scope-restore", keep);
        document.addEventListener("react-aria-focus-scope-restore", keep);
        const timer = setTimeout(end, 1500);
        return () => {
            clearTimeout(timer);
            end();
        };
    }, []);

    useEffect(() => {
        if (editId) return;
        keepDraft(room.roomId, text);
    }, [text, room, editId]);

    useLayoutEffect(() => {
        const a = area.current;
        if (!a) return;
        a.style.height = "auto";
        a.style.height = `${Math.min(a.scrollHeight, 200)}px`;
    }, [text]);

    const typing = useCallback(
        (on: boolean) => {
            const now = Date.now();
            if (on ? now - typingSince.current < typingMs / 2 : typingSince.current === 0) return;
            typingSince.current = on ? now : 0;
            void client.sendTyping(room.roomId, on, typingMs).catch(() => undefined);
        },
        [client, room],
    );
    useEffect(() => () => typing(false), [typing]);

    const suggestions = useMemo<Suggestion[]>(() => {
        const head = text.slice(0, caret);
        const at = /(?:^|\s)@([^\s@]{0,30})$/u.exec(head);
        if (at) {
            const q = at[1]!.toLocaleLowerCase();
            return room
                .getMembersWithMembership(KnownMembership.Join)
                .filter((m) => m.userId !== me && (nameOf(m, m.userId).toLocaleLowerCase().includes(q) || m.userId.toLocaleLowerCase().includes(q)))
                .slice(0, 8)
                .map((m) => {
                    const shown = nameOf(m, m.userId);
                    return { key: m.userId, insert: `@${shown} `, label: shown, detail: m.userId, mention: { userId: m.userId, name: shown } };
                });
        }
        const colon = /(?:^|\s):([a-z_]{2,20})$/.exec(head);
        if (colon) return emoji.named.filter(([n]) => n.includes(colon[1]!)).slice(0, 8).map(([n, e]) => ({ key: n, insert: `${e} `, label: `${e} ${n}` }));
        return [];
    }, [text, caret, room, me]);
    const open = suggestions.length > 0 && hushed !== text;

    const take = (s: Suggestion) => {
        const head = text.slice(0, caret).replace(/[@:][^\s@:]*$/u, "");
        const next = head + s.insert + text.slice(caret);
        setText(next);
        if (s.mention) setMentions((old) => [...old, s.mention!]);
        const to = head.length + s.insert.length;
        requestAnimationFrame(() => {
            area.current?.focus();
            area.current?.setSelectionRange(to, to);
            setCaret(to);
        });
    };

    const send = () => {
        const body = text.trim();
        if (files.length) {
            uploadsOf(client).add(room.roomId, files, body, replyId);
            setFiles([]);
        } else if (!body) return;
        else if (editing) {
            const content = toContent(body, mentions);
            const msgtype = editing.getContent()["msgtype"] as string;
            const { "m.mentions": wanted, ...plain } = content;
            // Nobody is notified again, except who was not mentioned before.
            void client
                .sendEvent(room.roomId, EventType.RoomMessage, {
                    ...plain,
                    msgtype,
                    body: `* ${content.body}`,
                    ...(content.formatted_body ? { formatted_body: `* ${content.formatted_body}` } : {}),
                    "m.mentions": {},
                    "m.new_content": { ...plain, msgtype, "m.mentions": wanted },
                    "m.relates_to": { rel_type: RelationType.Replace, event_id: editId! },
                } as never)
                .catch(() => undefined);
            before.current = "";
            keepDraft(room.roomId, "");
        } else {
            const emote = body.startsWith("/me ");
            const content = toContent(emote ? body.slice(4) : body, mentions);
            if (replyTo) {
                const to = replyTo.getSender();
                if (to && to !== me) content["m.mentions"].user_ids = [...new Set([...(content["m.mentions"].user_ids ?? []), to])];
            }
            void client
                .sendEvent(room.roomId, EventType.RoomMessage, {
                    ...content,
                    msgtype: emote ? MsgType.Emote : MsgType.Text,
                    ...(replyId ? { "m.relates_to": { "m.in_reply_to": { event_id: replyId } } } : {}),
                } as never)
                .catch(() => undefined);
        }
        setText("");
        setMentions([]);
        typing(false);
        onDone();
        area.current?.focus();
    };

    const onKeyDown = (e: React.KeyboardEvent) => {
        if (e.nativeEvent.isComposing) return;
        if (open) {
            const at = Math.min(picked, suggestions.length - 1);
            if (e.key === "ArrowDown" || e.key === "ArrowUp") {
                e.preventDefault();
                setPicked((at + (e.key === "ArrowDown" ? 1 : suggestions.length - 1)) % suggestions.length);
                return;
            }
            if (e.key === "Enter" || e.key === "Tab") {
                e.preventDefault();
                take(suggestions[at]!);
                return;
            }
            if (e.key === "Escape") {
                e.preventDefault();
                setHushed(text);
                return;
            }
        }
        if (e.key === "Enter" && !e.shiftKey && !e.altKey) {
            e.preventDefault();
            send();
        } else if (e.key === "ArrowUp" && text === "" && !editing) {
            e.preventDefault();
            onEditLast();
        } else if (e.key === "Escape" && (editing || replyTo || files.length)) {
            e.preventDefault();
            setFiles([]);
            onDone();
        }
    };

    if (!maySend)
        return (
            <div className="composer composer--closed">
                <p>{t("composer.notAllowed")}</p>
            </div>
        );
    const label = t("composer.label", { name });
    return (
        <div className="composer">
            <Progresses room={room} />
            {(replyTo || editing) && (
                <div className="composer-about">
                    <Icon name={editing ? "edit" : "reply"} />
                    <div className="composer-about-what">
                        <span className="hf-hint">{editing ? t("composer.editing") : t("composer.replying")}</span>
                        <Quote room={room} eventId={(editing ?? replyTo)!.getId()!} />
                    </div>
                    <IconButton small icon="close" label={t("common.cancel")} onPress={onDone} />
                </div>
            )}
            {files.length > 0 && (
                <ul className="composer-files" aria-label={t("composer.files")}>
                    {files.map((f, i) => (
                        <FileChip key={`${f.name} ${f.size} ${i}`} file={f} onRemove={() => setFiles(files.filter((_, j) => j !== i))} />
                    ))}
                </ul>
            )}
            {open && (
                <ul className="suggestions" id={listId} role="listbox" aria-label={t("composer.suggestions")}>
                    {suggestions.map((s, i) => (
                        <li
                            key={s.key}
                            id={`${listId} ${i}`.replaceAll(" ", "-")}
                            role="option"
                            aria-selected={i === Math.min(picked, suggestions.length - 1)}
                            onPointerDown={(e) => {
                                e.preventDefault();
                                take(s);
                            }}
                        >
                            {s.mention && <Avatar size="xs" name={s.label} seed={s.key} />}
                            <span>{s.label}</span>
                            {s.detail && <span className="hf-hint">{s.detail}</span>}
                        </li>
                    ))}
                </ul>
            )}
            <div className="composer-row">
                <input
                    ref={picker}
                    type="file"
                    multiple
                    hidden
                    data-testid="attach-input"
                    onChange={(e) => {
                        setFiles([...files, ...(e.target.files ?? [])]);
                        e.target.value = "";
                    }}
                />
                <IconButton icon="attach" label={t("composer.attach")} placement="top" onPress={() => picker.current?.click()} isDisabled={!!editing} data-testid="attach" />
                <textarea
                    ref={area}
                    className="composer-text"
                    rows={1}
                    value={text}
                    placeholder={t("composer.placeholder")}
                    aria-label={label}
                    data-testid="composer"
                    {...(open ? { "aria-controls": listId, "aria-activedescendant": `${listId} ${Math.min(picked, suggestions.length - 1)}`.replaceAll(" ", "-"), "aria-autocomplete": "list" as const } : {})}
                    onChange={(e) => {
                        setText(e.target.value);
                        setCaret(e.target.selectionStart);
                        setPicked(0);
                        typing(e.target.value !== "");
                    }}
                    onSelect={(e) => setCaret(e.currentTarget.selectionStart)}
                    onFocus={() => client.getCrypto()?.prepareToEncrypt(room)}
                    onKeyDown={onKeyDown}
                    onPaste={(e) => {
                        const pasted = [...e.clipboardData.files];
                        if (!pasted.length || editing) return;
                        e.preventDefault();
                        setFiles([...files, ...pasted]);
                    }}
                />
                <EmojiPicker
                    onPick={(key) => {
                        const a = area.current;
                        const from = a?.selectionStart ?? text.length;
                        const to = a?.selectionEnd ?? text.length;
                        setText(text.slice(0, from) + key + text.slice(to));
                        requestAnimationFrame(() => {
                            a?.focus();
                            a?.setSelectionRange(from + key.length, from + key.length);
                        });
                    }}
                />
                <IconButton icon={editing ? "check" : "send"} look="accent" label={editing ? t("composer.save") : t("composer.send")} placement="top" onPress={send} isDisabled={!text.trim() && !files.length} data-testid="send" />
            </div>
        </div>
    );
}

function FileChip({ file, onRemove }: { file: File; onRemove: () => void }) {
    const [address, setAddress] = useState<string>();
    useEffect(() => {
        if (!/^image\/(png|jpeg|gif|webp|avif)$/.test(file.type)) return;
        const made = URL.createObjectURL(file);
        setAddress(made);
        return () => URL.revokeObjectURL(made);
    }, [file]);
    return (
        <li className="file-chip" data-testid="composer-file">
            {address ? <img src={address} alt="" /> : <Icon name="file" />}
            <span className="file-text">
                <span className="file-name">{file.name}</span>
                <span className="file-size">{size(file.size)}</span>
            </span>
            <IconButton small icon="close" label={t("composer.removeFile", { name: file.name })} onPress={onRemove} />
        </li>
    );
}

function Progresses({ room }: { room: Room }) {
    const client = useClient();
    const uploads = useUploads(client, room.roomId);
    if (!uploads.length) return null;
    return (
        <ul className="uploads" aria-label={t("upload.label")}>
            {uploads.map((u) => (
                <UploadRow key={u.id} upload={u} />
            ))}
        </ul>
    );
}

function UploadRow({ upload }: { upload: Upload }) {
    const uploads = uploadsOf(useClient());
    return (
        <li className="upload" data-testid="upload" data-state={upload.state}>
            {upload.preview ? <img src={upload.preview} alt="" /> : <Icon name="file" />}
            <span className="file-text">
                <span className="file-name">{upload.file.name}</span>
                {upload.state === "failed" ? (
                    <span className="hf-error" role="alert">
                        {upload.problem === "tooLarge" ? t("upload.tooLarge", { size: size(upload.file.size) }) : upload.problem === "refused" ? t("upload.refused") : t("upload.offline")}
                    </span>
                ) : (
                    <Progress value={upload.progress} label={t("upload.progress", { name: upload.file.name })} />
                )}
            </span>
            {upload.state === "failed" && upload.problem !== "tooLarge" && <IconButton small icon="retry" label={t("common.retry")} onPress={() => uploads.retry(upload.id)} />}
            <IconButton small icon="close" label={t("upload.cancel", { name: upload.file.name })} onPress={() => uploads.cancel(upload.id)} />
        </li>
    );
}

function EmojiPicker({ onPick }: { onPick: (key: string) => void }) {
    return (
        <DialogTrigger>
            <IconButton icon="react" label={t("composer.emoji")} placement="top" data-testid="emoji" />
            <Popover className="hf-popover" placement="top end">
                <AriaDialog className="emoji-picker" aria-label={t("composer.emoji")}>
                    {({ close }) =>
                        emoji.groups.map((g) => (
                            <section key={g.name} aria-label={t(`emoji.${g.name}`)}>
                                <h3>{t(`emoji.${g.name}`)}</h3>
                                <div>
                                    {g.all.map((key) => (
                                        <button
                                            key={key}
                                            type="button"
                                            className="emoji"
                                            onClick={() => {
                                                close();
                                                onPick(key);
                                            }}
                                        >
                                            {key}
                                        </button>
                                    ))}
                                </div>
                            </section>
                        ))
                    }
                </AriaDialog>
            </Popover>
        </DialogTrigger>
    );
}
