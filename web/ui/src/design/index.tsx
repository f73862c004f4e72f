// The design system: every control of the product. Behaviour and accessibility come from react-aria-components,
// the look from the style sheets in this folder. Texts come in from outside, already translated.
import { useEffect, useId, useRef, useState, useSyncExternalStore, type ReactNode } from "react";
import {
    Button as AriaButton,
    type ButtonProps as AriaButtonProps,
    Dialog as AriaDialog,
    Heading,
    Input,
    Label,
    Menu as AriaMenu,
    MenuItem as AriaMenuItem,
    MenuTrigger,
    Modal,
    ModalOverlay,
    Popover,
    Radio as AriaRadio,
    RadioGroup as AriaRadioGroup,
    Switch as AriaSwitch,
    Text,
    TextArea,
    TextField as AriaTextField,
    FieldError,
    ToggleButton,
    Tooltip,
    TooltipTrigger,
    type Placement,
} from "react-aria-components";
import { t } from "../i18n";
import { Icon, type IconName } from "./icon";

export { Icon, type IconName };
export { Form, Popover, DialogTrigger, MenuTrigger } from "react-aria-components";

const join = (...parts: (string | false | undefined)[]): string => parts.filter(Boolean).join(" ");

// react-aria passes data-* attributes on, but its types do not say so.
export interface TestId {
    "data-testid"?: string;
}

export interface ButtonProps extends Omit<AriaButtonProps, "className" | "style" | "children">, TestId {
    look?: "main" | "plain" | "quiet" | "danger";
    icon?: IconName;
    wide?: boolean;
    className?: string;
    children?: ReactNode;
}

export function Button({ look = "main", icon, wide, className, children, isPending, ...props }: ButtonProps) {
    return (
        <AriaButton {...props} {...(isPending === undefined ? {} : { isPending })} className={join("hf-button", look !== "main" && `hf-button--${look}`, wide && "hf-button--wide", className)}>
            {isPending ? <Spinner /> : icon && <Icon name={icon} />}
            {children}
        </AriaButton>
    );
}

export interface IconButtonProps extends Omit<AriaButtonProps, "className" | "style" | "children" | "aria-label">, TestId {
    icon: IconName;
    label: string;
    look?: "quiet" | "accent";
    small?: boolean;
    className?: string;
    placement?: Placement;
    children?: ReactNode;
}

/** IconButton says its label to screen readers and, on hover or focus, to everyone. */
export function IconButton({ icon, label, look, small, className, placement = "bottom", children, ...props }: IconButtonProps) {
    return (
        <TooltipTrigger delay={500} closeDelay={0}>
            <AriaButton {...props} aria-label={label} className={join("hf-icon-button", look === "accent" && "hf-icon-button--accent", small && "hf-icon-button--small", className)}>
                <Icon name={icon} />
                {children}
            </AriaButton>
            <Tooltip className="hf-tooltip" placement={placement} offset={6}>
                {label}
            </Tooltip>
        </TooltipTrigger>
    );
}

export function IconToggle({ icon, label, isSelected, onChange, ...rest }: { icon: IconName; label: string; isSelected: boolean; onChange: (on: boolean) => void } & TestId) {
    return (
        <TooltipTrigger delay={500} closeDelay={0}>
            <ToggleButton {...rest} aria-label={label} isSelected={isSelected} onChange={onChange} className="hf-icon-button">
                <Icon name={icon} />
            </ToggleButton>
            <Tooltip className="hf-tooltip" placement="bottom" offset={6}>
                {label}
            </Tooltip>
        </TooltipTrigger>
    );
}

export interface TextFieldProps extends TestId {
    label: string;
    /** Hides the label from sight; it is still read out. */
    labelHidden?: boolean;
    value: string;
    onChange: (value: string) => void;
    hint?: ReactNode;
    error?: string | undefined;
    type?: "text" | "password" | "email" | "search" | "url" | "number" | "date";
    multiline?: boolean;
    autoFocus?: boolean;
    autoComplete?: string;
    placeholder?: string;
    maxLength?: number;
    isRequired?: boolean;
    isReadOnly?: boolean;
    isDisabled?: boolean;
    inputMode?: "text" | "numeric" | "email" | "url" | "search";
    spellCheck?: "true" | "false";
    onKeyDown?: React.KeyboardEventHandler;
}

export function TextField({ label, labelHidden, hint, error, multiline, placeholder, "data-testid": testId, onKeyDown, ...props }: TextFieldProps) {
    const field = { ...(placeholder === undefined ? {} : { placeholder }), ...(testId === undefined ? {} : { "data-testid": testId }), ...(onKeyDown === undefined ? {} : { onKeyDown }) };
    return (
        <AriaTextField {...props} isInvalid={!!error} validationBehavior="aria" className="hf-field">
            <Label className={labelHidden ? "hf-hidden" : "hf-label"}>{label}</Label>
            {multiline ? <TextArea {...field} rows={3} /> : <Input {...field} />}
            {hint && (
                <Text slot="description" className="hf-hint">
                    {hint}
                </Text>
            )}
            <FieldError className="hf-error">{error}</FieldError>
        </AriaTextField>
    );
}

/** FileTextField takes a text that is typed, pasted, or in a file that is chosen or dropped on it. */
export function FileTextField({ label, pick, accept, maxBytes, value, onChange, error, hint, testId }: { label: string; pick: string; accept: string; maxBytes: number; value: string; onChange: (v: string) => void; error: string | undefined; hint: string; testId: string }) {
    const input = useRef<HTMLInputElement>(null);
    const [large, setLarge] = useState(false);
    const read = async (file: File | undefined): Promise<void> => {
        setLarge(!!file && file.size > maxBytes);
        if (file && file.size <= maxBytes) onChange(await file.text());
    };
    return (
        <div
            className="hf-file-text"
            onDragOver={(e) => e.preventDefault()}
            onDrop={(e) => {
                e.preventDefault();
                void read(e.dataTransfer.files[0]);
            }}
        >
            <TextField label={label} multiline value={value} onChange={onChange} error={large ? t("common.fileTooLarge", { size: String(Math.floor(maxBytes / 1000)) }) : error} hint={hint} spellCheck="false" autoComplete="off" data-testid={testId} />
            <Button look="plain" icon="file" onPress={() => input.current?.click()}>
                {pick}
            </Button>
            <input ref={input} type="file" hidden accept={accept} data-testid={`${testId}-file`} onChange={(e) => void read(e.target.files?.[0])} />
        </div>
    );
}

export function Switch({ isSelected, onChange, children, hint, isDisabled, ...rest }: { isSelected: boolean; onChange: (on: boolean) => void; children: ReactNode; hint?: ReactNode; isDisabled?: boolean } & TestId) {
    const id = useId();
    return (
        <AriaSwitch {...rest} isSelected={isSelected} onChange={onChange} isDisabled={isDisabled ?? false} {...(hint ? { "aria-describedby": id } : {})} className="hf-switch">
            <span className="hf-switch-text">
                {children}
                {hint && (
                    <span id={id} className="hf-hint">
                        <br />
                        {hint}
                    </span>
                )}
            </span>
            <span className="hf-switch-track" />
        </AriaSwitch>
    );
}

export interface Choice<V extends string> {
    value: V;
    label: string;
    hint?: ReactNode;
    isDisabled?: boolean;
}

export function RadioGroup<V extends string>({ label, value, onChange, choices, ...rest }: { label: string; value: V; onChange: (v: V) => void; choices: Choice<V>[] } & TestId) {
    return (
        <AriaRadioGroup {...rest} value={value} onChange={(v) => onChange(v as V)} className="hf-field">
            <Label className="hf-label">{label}</Label>
            <div className="hf-radio-group">
                {choices.map((c) => (
                    <AriaRadio key={c.value} value={c.value} isDisabled={c.isDisabled ?? false} className="hf-radio">
                        <span>
                            {c.label}
                            {c.hint && <span className="hf-hint"><br />{c.hint}</span>}
                        </span>
                    </AriaRadio>
                ))}
            </div>
        </AriaRadioGroup>
    );
}

export interface DialogProps extends TestId {
    title: string;
    isOpen: boolean;
    onClose: () => void;
    wide?: boolean;
    /** The person must answer: no close button, Escape or click beside it. */
    firm?: boolean;
    role?: "dialog" | "alertdialog";
    children: ReactNode;
}

export function Dialog({ title, isOpen, onClose, wide, firm, role = "dialog", children, ...rest }: DialogProps) {
    return (
        <ModalOverlay className="hf-overlay" isOpen={isOpen} onOpenChange={(open) => !open && onClose()} isDismissable={!firm && role === "dialog"} isKeyboardDismissDisabled={!!firm}>
            <Modal className={join("hf-modal", wide && "hf-modal--wide")}>
                <AriaDialog role={role} className="hf-dialog" {...rest}>
                    <div className="hf-dialog-head">
                        <Heading slot="title" level={2}>
                            {title}
                        </Heading>
                        {!firm && <IconButton icon="close" label={t("common.close")} onPress={onClose} />}
                    </div>
                    <div className="hf-dialog-body">{children}</div>
                </AriaDialog>
            </Modal>
        </ModalOverlay>
    );
}

/** Confirm asks one yes-or-no question; onYes may take its time and may fail with a message. */
export function Confirm({ title, children, yes, danger, isOpen, onYes, onClose }: { title: string; children: ReactNode; yes: string; danger?: boolean; isOpen: boolean; onYes: () => unknown; onClose: () => void }) {
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const go = async () => {
        setBusy(true);
        setError(undefined);
        try {
            await onYes();
            onClose();
        } catch (e) {
            setError(e instanceof Error ? e.message : String(e));
        } finally {
            setBusy(false);
        }
    };
    return (
        <Dialog title={title} isOpen={isOpen} onClose={onClose} role="alertdialog">
            <div>{children}</div>
            <ErrorNote>{error}</ErrorNote>
            <div className="hf-actions">
                <Button look="plain" onPress={onClose}>
                    {t("common.cancel")}
                </Button>
                <Button look={danger ? "danger" : "main"} isPending={busy} onPress={() => void go()} autoFocus data-testid="confirm">
                    {yes}
                </Button>
            </div>
        </Dialog>
    );
}

export interface MenuAction extends TestId {
    id: string;
    label: string;
    icon?: IconName;
    danger?: boolean;
    isDisabled?: boolean;
    onAction: () => void;
}

/** Menu opens below its trigger, which is the only child that is a button. */
export function Menu({ trigger, items, label, placement = "bottom end", onOpenChange }: { trigger: ReactNode; items: MenuAction[]; label: string; placement?: Placement; onOpenChange?: (open: boolean) => void }) {
    return (
        <MenuTrigger {...(onOpenChange ? { onOpenChange } : {})}>
            {trigger}
            <Popover className="hf-popover" placement={placement}>
                <AriaMenu className="hf-menu" aria-label={label}>
                    {items.map(({ id, label: text, icon, danger, isDisabled, onAction, ...rest }) => (
                        <AriaMenuItem key={id} id={id} textValue={text} isDisabled={isDisabled ?? false} onAction={onAction} className={join("hf-menu-item", danger && "hf-menu-item--danger")} {...rest}>
                            {icon && <Icon name={icon} />}
                            {text}
                        </AriaMenuItem>
                    ))}
                </AriaMenu>
            </Popover>
        </MenuTrigger>
    );
}

/** hue gives one of the eight colours to a name, always the same. */
export function hue(seed: string): number {
    let h = 0;
    for (let i = 0; i < seed.length; i++) h = (h * 31 + seed.charCodeAt(i)) >>> 0;
    return (h % 8) + 1;
}

function initials(name: string): string {
    const words = name.replace(/^[@#!]/, "").split(/[\s._-]+/).filter((w) => /[\p{L}\p{N}]/u.test(w));
    const first = [...(words[0] ?? "?")][0] ?? "?";
    const last = words.length > 1 ? ([...words[words.length - 1]!][0] ?? "") : "";
    return (first + last).toLocaleUpperCase();
}

export function Avatar({ name, seed, src, size, group }: { name: string; seed: string; src?: string | undefined; size?: "xs" | "s" | "l"; group?: boolean }) {
    return (
        <span className={join("hf-avatar", size && `hf-avatar--${size}`, group && "hf-avatar--group", `hf-who-${hue(seed)}`)} aria-hidden="true" data-initials={src ? undefined : initials(name)}>
            {src && <img src={src} alt="" draggable={false} />}
        </span>
    );
}

export function Spinner() {
    return <span className="hf-spinner" aria-hidden="true" />;
}

export function Progress({ value, label }: { value: number; label: string }) {
    const percent = Math.round(Math.min(1, Math.max(0, value)) * 100);
    return (
        <span className="hf-progress" role="progressbar" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={percent}>
            <span style={{ width: `${percent}%` }} />
        </span>
    );
}

export function Banner({ icon, kind, children, action, role }: { icon: IconName; kind?: "warn" | "danger" | "accent"; children: ReactNode; action?: ReactNode; role?: "status" | "alert" }) {
    return (
        <div className={join("hf-banner", kind && `hf-banner--${kind}`)} role={role}>
            <Icon name={icon} />
            <span>{children}</span>
            {action}
        </div>
    );
}

export function Empty({ icon, title, children }: { icon: IconName; title: string; children?: ReactNode }) {
    return (
        <div className="hf-empty">
            <Icon name={icon} />
            <h2>{title}</h2>
            {children}
        </div>
    );
}

export function ErrorNote({ children }: { children?: ReactNode }) {
    return children ? (
        <p className="hf-error hf-error--box" role="alert">
            {children}
        </p>
    ) : null;
}

// Toasts: short messages that leave by themselves.
interface ToastMessage {
    id: number;
    text: string;
}
let toasts: ToastMessage[] = [];
let nextToast = 1;
const toastListeners = new Set<() => void>();
function setToasts(next: ToastMessage[]): void {
    toasts = next;
    for (const l of toastListeners) l();
}

/** toast shows a short message for some seconds; the same one again is shown once. */
export function toast(text: string): void {
    const id = nextToast++;
    setToasts([...toasts.filter((m) => m.text !== text).slice(-2), { id, text }]);
    setTimeout(() => dismiss(id), 6000);
}
function dismiss(id: number): void {
    setToasts(toasts.filter((m) => m.id !== id));
}

/** Toasts is where toast() appears; it stands once in each part of the application. */
export function Toasts() {
    const shown = useSyncExternalStore(
        (l) => (toastListeners.add(l), () => toastListeners.delete(l)),
        () => toasts,
    );
    return (
        <div className="hf-toasts" role="status" aria-live="polite">
            {shown.map((m) => (
                <div key={m.id} className="hf-toast">
                    <span>{m.text}</span>
                    <IconButton small icon="close" label={t("common.close")} onPress={() => dismiss(m.id)} />
                </div>
            ))}
        </div>
    );
}

/** CopyButton puts a text on the clipboard and says that it did. */
export function CopyButton({ text, label, ...rest }: { text: string; label: string } & TestId) {
    const [done, setDone] = useState(false);
    useEffect(() => {
        if (!done) return;
        const timer = setTimeout(() => setDone(false), 2000);
        return () => clearTimeout(timer);
    }, [done]);
    return (
        <Button {...rest} look="plain" icon={done ? "check" : "copy"} onPress={() => void navigator.clipboard.writeText(text).then(() => setDone(true), () => toast(t("common.copyFailed")))}>
            {done ? t("common.copied") : label}
        </Button>
    );
}

/** Brand is the product's mark and name. */
export function Brand() {
    return (
        <span className="hf-brand">
            <img src="/icon.svg" alt="" width={36} height={36} />
            {t("app.name")}
        </span>
    );
}
