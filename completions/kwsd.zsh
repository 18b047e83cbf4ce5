#compdef kwsd
# Completion of kwsd in zsh. Made by `python -m kwsd.cli.reference`; do not edit.

_kwsd() {
    local context state state_descr line
    typeset -A opt_args
    _arguments -C -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--version[show program'\''s version number and exit]' \
        '1: :->action' \
        '*:: :->arguments'
    case $state in
    action)
        local -a actions=(
            'run:run the daemon'
            'events:print the daemon'\''s events'
            'status:show how the daemon is doing'
            'reload:make the daemon read its configuration and its state directory again'
            'pause:make the daemon release the microphone for a while'
            'resume:end a pause: the daemon takes the microphone again'
            'enroll:enroll a speaker'
            'speakers:list the enrolled speakers, delete one, or find them in recordings'
            'word:add, improve, try and remove wake words of your own'
            'clips:list, play, label and delete recordings of wakes and near misses'
            'calibrate:set thresholds for this room and its people'
            'wyoming:serve wake words to Home Assistant and to satellites, by the Wyoming protocol'
            'mqtt:publish wakes and states to an MQTT broker, for Home Assistant and others'
            'metrics:serve figures of the daemon to Prometheus, or to node_exporter by a file'
            'web:serve a page that shows what is heard and tunes it, or get a link to it'
            'detect:run the detector over recordings and print a JSON line per event'
            'embed:compute speaker embeddings of recordings'
            'devices:list the input devices'
            'doctor:check this machine and name the fix for what is wrong'
            'config:show the configuration in force, or the JSON Schema of kwsd.yaml'
            'install-service:install kwsd as a service of this machine (as root), or as your own (--user)'
            'uninstall-service:remove the service of this machine (as root), or your own (--user)'
            'bench:measure what kwsd costs and how accurate it is, beside its peers, on the same audio'
            'train:train the models, or models for words of your own'
            'help:show the verbs, or the arguments of one verb or action'
        )
        _describe verb actions
        ;;
    arguments)
        case $line[1] in
        run) _kwsd_run ;;
        events) _kwsd_events ;;
        status) _kwsd_status ;;
        reload) _kwsd_reload ;;
        pause) _kwsd_pause ;;
        resume) _kwsd_resume ;;
        enroll) _kwsd_enroll ;;
        speakers) _kwsd_speakers ;;
        word) _kwsd_word ;;
        clips) _kwsd_clips ;;
        calibrate) _kwsd_calibrate ;;
        wyoming) _kwsd_wyoming ;;
        mqtt) _kwsd_mqtt ;;
        metrics) _kwsd_metrics ;;
        web) _kwsd_web ;;
        detect) _kwsd_detect ;;
        embed) _kwsd_embed ;;
        devices) _kwsd_devices ;;
        doctor) _kwsd_doctor ;;
        config) _kwsd_config ;;
        install-service) _kwsd_install_service ;;
        uninstall-service) _kwsd_uninstall_service ;;
        bench) _kwsd_bench ;;
        train) _kwsd_train ;;
        help) _kwsd_help ;;
        esac
        ;;
    esac
}

_kwsd_run() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--words[listen for these words instead of the configured ones]:A,B: ' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[folder of voiceprints, added words, calibration and clips]:DIR:_files -/' \
        '--source[mic (default), a recording, - for raw PCM on standard input, or auto\: mic, or the bundled recording where there is none]:SOURCE: ' \
        '--format[samples of raw PCM, little-endian (default s16)]:s8|s16|s24|s32|f32:(s8 s16 s24 s32 f32)' \
        '--rate[sample rate of raw PCM (default 16000)]:HZ: ' \
        '--channels[channels of raw PCM (default 1)]:N: ' \
        '--realtime[read a recording no faster than it was spoken]' \
        '--wait-for-client[begin to listen when the first client has subscribed]' \
        '--print[print the events as well]' \
        '--json[print JSON, for programs]'
}

_kwsd_events() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--types[only these\: wake, rejected, microphone, lag]:A,B: ' \
        '--words[only events of these words]:A,B: ' \
        '--count[exit after N events]:N: ' \
        '--details[also name the nearest speaker and the runner-up, verified or not; for root, the daemon'\''s user and socket.admin_group]' \
        '(--reconnect --no-reconnect)'{--reconnect,--no-reconnect}'[wait for a daemon that goes to come back, and print the gap; the default on a terminal (else kwsd events fails when the daemon goes)]' \
        '--exec[instead of printing an event, run the shell command CMD with its JSON on standard input\: at most 4 at once, 10 s each; exit with 1 if one failed]:CMD: ' \
        '--json[print JSON, for programs]'
}

_kwsd_status() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--json[print JSON, for programs]'
}

_kwsd_reload() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--json[print JSON, for programs]'
}

_kwsd_pause() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--for[for so long\: 90s, 10m, 8h, at most 7d (default\: until kwsd pause is stopped, as by ^C, or until kwsd resume)]:TIME: ' \
        '--holder[whose pause it is (default\: cli); the microphone returns when the last is gone]:NAME: ' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--json[print JSON, for programs]'
}

_kwsd_resume() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--holder[whose pause it is (default\: cli); the microphone returns when the last is gone]:NAME: ' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--json[print JSON, for programs]'
}

_kwsd_enroll() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--wav[use recordings of the speaker, at least three, instead of the microphone]:*-*:FILE:_files' \
        '--from-clips[use clips that the daemon kept (default\: those that are labeled right and that are nobody else'\''s)]:*-*:ID: ' \
        '--steps[do the steps that a program writes to standard input, as lines of JSON]' \
        '--reference[keep it beside the speaker'\''s other references, such as near, far or headset]:LABEL: ' \
        '--word[the wake word to say (default\: the first active one)]:WORD: ' \
        '--yes[replace a speaker of this name without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[with --wav\: store the voiceprint in DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:NAME: '
}

_kwsd_speakers() {
    local context state state_descr line
    typeset -A opt_args
    _arguments -C -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--delete[delete this speaker'\''s voiceprint]:NAME: ' \
        '--reference[with --delete\: delete this reference of the speaker]:LABEL: ' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1: :->action' \
        '*:: :->arguments'
    case $state in
    action)
        local -a actions=(
            'test:tell who of the enrolled speaks, into the daemon'\''s microphone or in recordings'
        )
        _describe action actions
        ;;
    arguments)
        case $line[1] in
        test) _kwsd_speakers_test ;;
        esac
        ;;
    esac
}

_kwsd_speakers_test() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[the speakers of the state directory DIR (default\: the configured one)]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '*:FILE:_files'
}

_kwsd_word() {
    local context state state_descr line
    typeset -A opt_args
    _arguments -C -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '1: :->action' \
        '*:: :->arguments'
    case $state in
    action)
        local -a actions=(
            'add:make a word from recordings of it'
            'improve:make a word again with its labeled clips'
            'list:list the words, those that come with kwsd and the added ones'
            'remove:delete a word and its takes'
            'export:write a word to a file'
            'import:add a word from an exported file'
            'test:score recordings with a word'
            'rebuild:make words again from their takes and clips'
            'edit:change the takes of a word, and make it again, by the steps that a program writes to standard input'
            'takes:list, play, trim and redo the takes of a word'
            'enable:listen for a word that is disabled, until the daemon is restarted'
            'disable:do not listen for a word, until the daemon is restarted'
        )
        _describe action actions
        ;;
    arguments)
        case $line[1] in
        add) _kwsd_word_add ;;
        improve) _kwsd_word_improve ;;
        list) _kwsd_word_list ;;
        remove) _kwsd_word_remove ;;
        export) _kwsd_word_export ;;
        import) _kwsd_word_import ;;
        test) _kwsd_word_test ;;
        rebuild) _kwsd_word_rebuild ;;
        edit) _kwsd_word_edit ;;
        takes) _kwsd_word_takes ;;
        enable) _kwsd_word_enable ;;
        disable) _kwsd_word_disable ;;
        esac
        ;;
    esac
}

_kwsd_word_add() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--wav[recordings, each of the word alone; three suffice, ten are better]:*-*:FILE:_files' \
        '--record[record N takes through the daemon'\''s microphone; three at least]:N: ' \
        '--text-only[no recordings\: espeak-ng says it; far worse\: the warning states by how much]' \
        '--from-clips[no recordings\: the labeled clips of a word of this name, which is lost or refused]' \
        '--steps[do the steps that a program writes to standard input, as lines of JSON]' \
        '--rate[false wakes an hour of continuous speech that its threshold allows, such as 1/week (default 0.1, or more where it would miss most of its takes)]:RATE: ' \
        '--room[train against what the daemon has just heard (lookback_s), without the word, too]' \
        '--language[of the synthetic voices, such as de or pt-br (default\: by the script of the text; English for Latin letters)]:CODE: ' \
        '(--synthesis --no-synthesis)'{--synthesis,--no-synthesis}'[add synthetic voices to the recordings (was worse)]' \
        '--yes[keep it without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:WORD: '
}

_kwsd_word_improve() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--yes[keep it without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:WORD: '
}

_kwsd_word_list() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]'
}

_kwsd_word_remove() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:WORD: '
}

_kwsd_word_export() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:WORD: ' \
        '2:FILE:_files'
}

_kwsd_word_import() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:FILE:_files'
}

_kwsd_word_test() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:WORD: ' \
        '*:FILE:_files'
}

_kwsd_word_rebuild() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--rate[hold them to another rate of false wakes an hour of speech (default\: their own)]:RATE: ' \
        '--yes[keep it without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '*:WORD: '
}

_kwsd_word_edit() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:WORD: '
}

_kwsd_word_takes() {
    local context state state_descr line
    typeset -A opt_args
    _arguments -C -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:WORD: ' \
        '2: :->action' \
        '*:: :->arguments'
    case $state in
    action)
        local -a actions=(
            'list:list the takes: what is used of each'
            'play:play what is used of a take'
            'trim:say where the word is in a take, and make the word again'
            'redo:put another take in the place of one, and make the word again'
            'drop:delete a take, and make the word again without it'
            'clear:delete all takes of the word; it stays as it is'
        )
        _describe action actions
        ;;
    arguments)
        case $line[2] in
        list) _kwsd_word_takes_list ;;
        play) _kwsd_word_takes_play ;;
        trim) _kwsd_word_takes_trim ;;
        redo) _kwsd_word_takes_redo ;;
        drop) _kwsd_word_takes_drop ;;
        clear) _kwsd_word_takes_clear ;;
        esac
        ;;
    esac
}

_kwsd_word_takes_list() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]'
}

_kwsd_word_takes_play() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--whole[play all of it]' \
        '--out[write it to a file instead of playing it]:FILE.wav:_files' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:N: '
}

_kwsd_word_takes_trim() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--yes[keep it without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:N: ' \
        '*:SECONDS: '
}

_kwsd_word_takes_redo() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--wav[a recording of it]:FILE:_files' \
        '--record[record it through the daemon'\''s microphone]' \
        '--yes[keep it without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:N: '
}

_kwsd_word_takes_drop() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--yes[keep it without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:N: '
}

_kwsd_word_takes_clear() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--yes[delete them without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]'
}

_kwsd_word_enable() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--json[print JSON, for programs]' \
        '1:WORD: '
}

_kwsd_word_disable() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--json[print JSON, for programs]' \
        '1:WORD: '
}

_kwsd_clips() {
    local context state state_descr line
    typeset -A opt_args
    _arguments -C -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '1: :->action' \
        '*:: :->arguments'
    case $state in
    action)
        local -a actions=(
            'list:list the clips, the oldest first'
            'play:play a clip'
            'label:label clips as the word or not'
            'keep:keep new clips or none, also after a restart'
            'clear:delete the clips that are named, or all'
        )
        _describe action actions
        ;;
    arguments)
        case $line[1] in
        list) _kwsd_clips_list ;;
        play) _kwsd_clips_play ;;
        label) _kwsd_clips_label ;;
        keep) _kwsd_clips_keep ;;
        clear) _kwsd_clips_clear ;;
        esac
        ;;
    esac
}

_kwsd_clips_list() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]'
}

_kwsd_clips_play() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--out[write it to a file instead of playing it]:FILE.wav:_files' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:ID: '
}

_kwsd_clips_label() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:right|wrong|none:(right wrong none)' \
        '*:ID: '
}

_kwsd_clips_keep() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:on|off|default:(on off default)'
}

_kwsd_clips_clear() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--all[delete all clips]' \
        '--yes[delete labeled clips without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '*:ID: '
}

_kwsd_calibrate() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--listen[listen to the room for so long (45m, 8h), while nobody says the words; ^C ends it early]:TIME: ' \
        '--wav[recordings of the room, in which nobody says the words]:*-*:FILE:_files' \
        '--log[what the daemon has logged, all or of the last TIME; labeled clips count]::TIME: ' \
        '--speakers[the threshold for enrolled speakers, from their takes and strangers'\'' voices]' \
        '--undo[go back to the thresholds before the last calibration]' \
        '--rate[false wakes allowed for each word\: 1/week, 2/day, 0.5/hour (default 1/day)]:N/PERIOD: ' \
        '--far[with --speakers\: share of strangers that may pass (default 0.01)]:SHARE: ' \
        '--nobody-spoke[with --log\: nobody said the words, so that every wake was false]' \
        '--plot[draw the trade-off, as .png or .svg (needs the extra \[plots\])]:FILE:_files' \
        '--words[calibrate only these words]:A,B: ' \
        '--yes[keep it without asking]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]'
}

_kwsd_wyoming() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--uri[where to listen (default\: tcp\://0.0.0.0\:10400, of a satellite 10700)]:URI: ' \
        '*--allow[an address or network that may connect, again for each (default\: local networks; a satellite has no default)]:ADDR: ' \
        '--max-clients[clients that may be connected at the same time (default\: 32)]:N: ' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--satellite[be a satellite instead\: send what is said after a wake word to the server that --allow admits]' \
        '--name[what Home Assistant calls it]:TEXT: ' \
        '--area[the area that Home Assistant suggests]:TEXT: ' \
        '--play[plays the WAV file on its standard input\: '\''aplay -q -'\'']:CMD: ' \
        '--awake-sound[a WAV file to play at a wake]:FILE:_files' \
        '--done-sound[a WAV file to play when a command was understood]:FILE:_files' \
        '--timer[is started for each event of a timer, with its JSON]:CMD: ' \
        '*--stop-word[a word that ends what is played, and wakes nothing; again for each]:WORD: '
}

_kwsd_mqtt() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--host[the broker'\''s name or address (default\: localhost)]:HOST: ' \
        '--port[its port (default\: 1883, with TLS 8883)]:PORT: ' \
        '--username[whom the broker knows this device as]:NAME: ' \
        '--password-file[file with the password and nothing else]:FILE:_files' \
        '--tls[encrypt, and check the certificate]' \
        '--ca-file[certificates that the broker'\''s must come from]:FILE:_files' \
        '--certificate-file[a certificate of this device, with its key]:FILE:_files' \
        '--topic[what every topic begins with (default\: kwsd)]:TOPIC: ' \
        '--name[the name of this device, such as its room (default\: the machine'\''s)]:NAME: ' \
        '--discovery[what Home Assistant'\''s discovery begins with, or off (default\: homeassistant)]:PREFIX: ' \
        '--arbitrate[of rooms that hear one utterance only the best answers, after TIME\: 300ms]:TIME: ' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files'
}

_kwsd_metrics() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--listen[where to answer, or off (default\: 127.0.0.1\:10712)]:ADDR\:PORT: ' \
        '--textfile[also write FILE (*.prom) for node_exporter]:FILE:_files' \
        '--interval[time between two writes of the file (default\: 15s)]:TIME: ' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files'
}

_kwsd_web() {
    local context state state_descr line
    typeset -A opt_args
    _arguments -C -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--listen[where to listen (default\: 127.0.0.1\:10480, for this machine alone)]:HOST\:PORT: ' \
        '--tls-cert[certificate, for another address]:FILE:_files' \
        '--tls-key[its private key]:FILE:_files' \
        '--insecure[listen on another address without TLS\: the whole network can read along]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '1: :->action' \
        '*:: :->arguments'
    case $state in
    action)
        local -a actions=(
            'link:print a new link to the page that runs'
        )
        _describe action actions
        ;;
    arguments)
        case $line[1] in
        link) _kwsd_web_link ;;
        esac
        ;;
    esac
}

_kwsd_web_link() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--qr[draw it as well, for a phone'\''s camera]'
}

_kwsd_detect() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--trace[also write the scores of every chunk]:OUT.npz:_files' \
        '--json[no effect\: the output is JSON anyway]' \
        '--details[also name the nearest speaker and the runner-up, verified or not]' \
        '--words[listen for these words instead of the configured ones]:A,B: ' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--state[folder of voiceprints, added words and calibration]:DIR:_files -/' \
        '*:FILE:_files'
}

_kwsd_embed() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--out[write `embeddings`, a row per file, and `files` there]:OUT.npz:_files' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--json[print JSON, for programs]' \
        '*:FILE:_files'
}

_kwsd_devices() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--json[print JSON, for programs]'
}

_kwsd_doctor() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--no-microphone[do not listen to it, even if no daemon has it]' \
        '--json[print JSON, for programs]'
}

_kwsd_config() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--config[configuration (default\: the user'\''s, then /etc/kwsd/kwsd.yaml)]:FILE:_files' \
        '--socket[the daemon'\''s socket (default\: the configured one)]:PATH:_files' \
        '--state[use the state directory DIR; no daemon is needed]:DIR:_files -/' \
        '--json[print JSON, for programs]' \
        '1:ACTION:(show schema)'
}

_kwsd_install_service() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--user[your own service, for a desktop, not as root]' \
        '--with[also these bridges to other programs, such as wyoming; later upgrades keep them]:A,B: '
}

_kwsd_uninstall_service() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--user[your own service, not as root]' \
        '--purge[also voiceprints, added words, clips, calibrations and the configuration]'
}

_kwsd_bench() {
    local context state state_descr line
    typeset -A opt_args
    _arguments -C -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '1: :->action' \
        '*:: :->arguments'
    case $state in
    action)
        local -a actions=(
            'cost:CPU, memory, start-up and latency'
            'accuracy:misses against false accepts of every word, and speaker verification'
            'words:the accuracy of words that are added from a few takes'
            'soak:hours of audio through the daemon: does anything grow?'
        )
        _describe action actions
        ;;
    arguments)
        case $line[1] in
        cost) _kwsd_bench_cost ;;
        accuracy) _kwsd_bench_accuracy ;;
        words) _kwsd_bench_words ;;
        soak) _kwsd_bench_soak ;;
        esac
        ;;
    esac
}

_kwsd_bench_cost() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--json[write all figures to FILE]:FILE:_files' \
        '--markdown[write the tables to FILE]:FILE:_files' \
        '--engines[only these of kwsd, pymicro-wakeword, pyopen-wakeword, pocketsphinx (default\: those that are installed)]:A,B: ' \
        '--seconds[audio per scene (default 600)]:S: ' \
        '--repeats[runs per engine and scene, in turn; the median counts (default 3)]:N: ' \
        '--wakes[wakes whose latency is measured, in real time (default 60)]:N: '
}

_kwsd_bench_accuracy() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--json[write all figures to FILE]:FILE:_files' \
        '--markdown[write the tables to FILE]:FILE:_files' \
        '--engines[only these of kwsd, pymicro-wakeword, pyopen-wakeword, pocketsphinx (default\: those that are installed)]:A,B: ' \
        '--negatives[recordings in which none of the words is said]:*-*:DIR:_files -/' \
        '--noise[noise to mix in (default\: the layout'\''s own, where it has some)]:DIR:_files -/' \
        '--snr[signal-to-noise ratio of the noisy recordings (default 10)]:DB: ' \
        '--words[only these words]:A,B: ' \
        '--plots[draw misses.svg and det.svg into DIR]:DIR:_files -/' \
        '1:DIR:_files -/'
}

_kwsd_bench_words() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--json[write all figures to FILE]:FILE:_files' \
        '--markdown[write the tables to FILE]:FILE:_files' \
        '--shots[takes that a word is made of (default 3,5,10)]:N,N: ' \
        '--seeds[draws of takes, for each word and number of shots (default 3)]:N: ' \
        '--words[add only these; they are tried against the others all the same]:A,B: ' \
        '--most[recordings of each word that are used (default 200)]:N: ' \
        '--together[also add all of them to one device, and say which of them wakes]' \
        '--negatives[recordings of other speech, in which false accepts are counted; a word that NAME.txt beside NAME.flac contains is not tried there]:*-*:DIR:_files -/' \
        '1:DIR:_files -/'
}

_kwsd_bench_soak() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--json[write all figures to FILE]:FILE:_files' \
        '--markdown[write the tables to FILE]:FILE:_files' \
        '--hours[hours of audio (default 6)]:H: '
}

_kwsd_train() {
    local context state state_descr line
    typeset -A opt_args
    _arguments -C -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '1: :->action' \
        '*:: :->arguments'
    case $state in
    action)
        local -a actions=(
            'unpack:decode the recordings that DATA/manifest.tsv names'
            'import:decode a corpus in a published layout'
            'synthesize:speak the wake words and words near them in hundreds of voices'
            'folds:count the clips, speakers and hours of each fold of the speakers'
            'align:find the words of unlabeled sentences, by Whisper'
            'homophones:find phrases that sound nearly like the wake words'
            'cache:ask each teacher about every utterance, once'
            'distill:train an encoder from the teachers'\'' answers'
            'finetune:train words and voices over the whole encoder'
            'heads:train the wake head and the speaker heads on the frozen encoder'
            'checker:make the second stage from a large pretrained transformer'
            'voices:put a network of voices beside the second stage'
            'compare:measure a checkpoint of finetune, or the checker'\''s student beside its teacher'
            'ablate:measure what each part of the training is worth, row by row of a table'
            'export:write the model bundle'
            'negatives:put audio without the user'\''s words into the bundle'
            'cohort:put voices to normalize speaker scores by into the bundle'
            'evaluate:measure the bundle on the development split'
        )
        _describe action actions
        ;;
    arguments)
        case $line[1] in
        unpack) _kwsd_train_unpack ;;
        import) _kwsd_train_import ;;
        synthesize) _kwsd_train_synthesize ;;
        folds) _kwsd_train_folds ;;
        align) _kwsd_train_align ;;
        homophones) _kwsd_train_homophones ;;
        cache) _kwsd_train_cache ;;
        distill) _kwsd_train_distill ;;
        finetune) _kwsd_train_finetune ;;
        heads) _kwsd_train_heads ;;
        checker) _kwsd_train_checker ;;
        voices) _kwsd_train_voices ;;
        compare) _kwsd_train_compare ;;
        ablate) _kwsd_train_ablate ;;
        export) _kwsd_train_export ;;
        negatives) _kwsd_train_negatives ;;
        cohort) _kwsd_train_cohort ;;
        evaluate) _kwsd_train_evaluate ;;
        esac
        ;;
    esac
}

_kwsd_train_unpack() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of manifest.tsv and its recordings]:DATA: ' \
        '--val[the same, of recordings that are never trained on\: they are reported alone]:VAL: '
}

_kwsd_train_import() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of the corpus]:DATA: ' \
        '--layout[its published layout]:speech_commands|librispeech|voxceleb|mswc|collected|webdataset:(speech_commands librispeech voxceleb mswc collected webdataset)' \
        '--name[folder in the working folder (default\: the layout'\''s name)]:NAME: '
}

_kwsd_train_synthesize() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '*--set[change a setting of synthesize.yaml; may be repeated]:KEY=VALUE: '
}

_kwsd_train_folds() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: '
}

_kwsd_train_align() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '*--set[change a setting of align.yaml; may be repeated]:KEY=VALUE: '
}

_kwsd_train_homophones() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '*--set[change a setting of homophones.yaml; may be repeated]:KEY=VALUE: '
}

_kwsd_train_cache() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--only[only these teachers (default\: those of distill.yaml)]:A,B: ' \
        '*--set[change a setting of cache.yaml; may be repeated]:KEY=VALUE: '
}

_kwsd_train_distill() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '*--set[change a setting of distill.yaml; may be repeated]:KEY=VALUE: '
}

_kwsd_train_finetune() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--encoder[checkpoint to start from (default\: WORK/distilled.pt, else the speech embedding)]:PATH:_files' \
        '*--set[change a setting of finetune.yaml; may be repeated]:KEY=VALUE: '
}

_kwsd_train_heads() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--encoder[checkpoint of the encoder (default\: WORK/finetuned.pt), or, for the wake head alone, the folder of a bundle]:PATH:_files' \
        '--only[only wake or speaker]:A,B: ' \
        '*--set[change a setting of heads.yaml; may be repeated]:KEY=VALUE: '
}

_kwsd_train_checker() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--models[the bundle (default\: models)]:MODELS: ' \
        '--only[only spoken, distill, candidates, tune, words or export]:A,B: ' \
        '*--set[change a setting of checker.yaml; may be repeated]:KEY=VALUE: ' \
        '--teacher[a HuBERT, wav2vec 2.0, WavLM or Whisper, as transformers saves it]:FOLDER:_files'
}

_kwsd_train_voices() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--models[the bundle (default\: models)]:MODELS: ' \
        '*--set[change a setting of voices.yaml; may be repeated]:KEY=VALUE: '
}

_kwsd_train_compare() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--encoder[checkpoint to measure (default\: WORK/finetuned.pt; with --teacher\: WORK/checker/distilled.pt)]:PATH:_files' \
        '*--set[change a setting of headline.yaml; may be repeated]:KEY=VALUE: ' \
        '--teacher[tune this one and the checker'\''s student of it alike, and measure both]:FOLDER:_files' \
        '--json[where the figures go (default\: beside the checkpoint; with --teacher\: WORK/headline.json)]:FILE:_files'
}

_kwsd_train_ablate() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--only[only these rows]:A,B: ' \
        '*--set[change a setting of ablate.yaml, or with --teacher of ablate_checker.yaml; may be repeated]:KEY=VALUE: ' \
        '--teacher[the second stage'\''s rows, in ablate_checker.yaml, with this teacher]:FOLDER:_files'
}

_kwsd_train_export() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--models[the bundle (default\: models)]:MODELS: ' \
        '--encoder[checkpoint of the encoder (default\: WORK/finetuned.pt)]:PATH:_files' \
        '--only[only student or speaker, and the other part of the bundle stays; or the wake head alone, behind the encoder that the bundle has]:A,B: ' \
        '--float[leave the encoder in 32 bit]'
}

_kwsd_train_negatives() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--models[the bundle (default\: models)]:MODELS: '
}

_kwsd_train_cohort() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--models[the bundle (default\: models)]:MODELS: ' \
        '*--set[change a setting of cohort.yaml; may be repeated]:KEY=VALUE: '
}

_kwsd_train_evaluate() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '--work[working folder (default\: work)]:WORK: ' \
        '--data[folder of rirs.npz, room responses]:DATA: ' \
        '--models[the bundle (default\: models)]:MODELS: ' \
        '--only[only words or voices]:A,B: ' \
        '--ungated[without the voice-activity gate]' \
        '--checker[second opinion, as in the configuration (default\: small, where there is one)]:small|large|off:(small large off)' \
        '--write[put thresholds and operating points into the bundle]'
}

_kwsd_help() {
    _arguments -S \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(-v --verbose)'{-v,--verbose}'[log more]' \
        '1::VERB:(run events status reload pause resume enroll speakers word clips calibrate wyoming mqtt metrics web detect embed devices doctor config install-service uninstall-service bench train help)' \
        '2::ACTION: '
}

if [ "$funcstack[1]" = _kwsd ]; then
    _kwsd "$@"
else
    compdef _kwsd kwsd
fi
