# wget, which is told whom to trust by an option only: wget.sh ORIGIN UNLISTED
origin=$1 unlisted=$2
heads=$(mktemp)

call() {
    wget --quiet --tries=1 --timeout=20 --ca-certificate="$SSL_CERT_FILE" --output-document=- "$@"
}

# say LABEL [ARGUMENT…]: the answer's status, then its body.
say() {
    label=$1
    shift
    answer=$(call --server-response --content-on-error "$@" 2>"$heads")
    echo "$label $(sed -n 's|^ *HTTP/[0-9.]* \([0-9]*\).*|\1|p' "$heads") $answer"
}

say GET "$origin/hello"
say POST --post-data=hello "$origin/files"
echo "STREAM $(call "$origin/events" | grep -c '^data: ')"
say DENIED --post-data=hello "$origin/readonly" | sed 's/{.*"reason":"\([a-z_]*\)".*}/\1/'
if call "$unlisted" 2>/dev/null; then echo "UNLISTED reached"; else echo "UNLISTED refused"; fi
rm "$heads"
