/* A video device for the tests, under the real v4l2 code of FFmpeg: preload it, and $FAKE_CAMERA, any character
 * device that can be opened, is a camera that gives the YUYV pictures in $FAKE_FRAMES ($FAKE_WIDTH x $FAKE_HEIGHT) one
 * after another, 25 a second, and falls silent after $FAKE_COUNT of them until it is opened anew.
 *
 * gcc -shared -fPIC -o fake_camera.so fake_camera.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAX_BUFFERS 32
#define INTERVAL 0.04

static int camera = -1, queued[MAX_BUFFERS], first, waiting, taken;
static unsigned char *memory[MAX_BUFFERS];
static double began;

static int number(const char *name) { return atoi(getenv(name)); }
static size_t picture_size(void) { return (size_t)number("FAKE_WIDTH") * number("FAKE_HEIGHT") * 2; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int opened(const char *path, int flags, mode_t mode, const char *name) {
    int fd = ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name))(path, flags, mode);
    if (getenv("FAKE_CAMERA") && !strcmp(path, getenv("FAKE_CAMERA"))) {
        camera = fd;
        first = waiting = taken = 0;
    }
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, int);
    va_end(rest);
    return opened(path, flags, mode, "open");
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, int);
    va_end(rest);
    return opened(path, flags, mode, "open64");
}

int close(int fd) {
    if (fd >= 0 && fd == camera) camera = -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "close"))(fd);
}

static int failed(int error) {
    errno = error;
    return -1;
}

static int shape(struct v4l2_format *format) {
    format->fmt.pix.width = number("FAKE_WIDTH");
    format->fmt.pix.height = number("FAKE_HEIGHT");
    format->fmt.pix.pixelformat = V4L2_PIX_FMT_YUYV;
    format->fmt.pix.field = V4L2_FIELD_NONE;
    format->fmt.pix.bytesperline = 2 * number("FAKE_WIDTH");
    format->fmt.pix.sizeimage = picture_size();
    return 0;
}

static void *mapped(void *at, size_t length, int rights, int flags, int fd, off_t offset, const char *name) {
    void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, name);
    if (fd < 0 || fd != camera) return real(at, length, rights, flags, fd, offset);
    return memory[offset] = real(NULL, length, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

void *mmap(void *at, size_t length, int rights, int flags, int fd, off_t offset) {
    return mapped(at, length, rights, flags, fd, offset, "mmap");
}

void *mmap64(void *at, size_t length, int rights, int flags, int fd, off_t offset) {
    return mapped(at, length, rights, flags, fd, offset, "mmap64");
}

static int take(struct v4l2_buffer *buffer) {
    for (;;) {
        if (taken < number("FAKE_COUNT") && waiting && now() >= began + taken * INTERVAL) break;
        if (fcntl(camera, F_GETFL) & O_NONBLOCK) return failed(EAGAIN);
        usleep(1000);
    }
    int index = queued[first];
    first = (first + 1) % MAX_BUFFERS;
    waiting--;
    FILE *frames = fopen(getenv("FAKE_FRAMES"), "rb");
    fseek(frames, 0, SEEK_END);
    long count = ftell(frames) / (long)picture_size();
    fseek(frames, (taken++ % count) * (long)picture_size(), SEEK_SET);
    size_t got = fread(memory[index], 1, picture_size(), frames);
    fclose(frames);
    buffer->index = index;
    buffer->bytesused = got;
    buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    buffer->timestamp.tv_sec = (long)now();
    buffer->timestamp.tv_usec = (long)((now() - (long)now()) * 1e6);
    return 0;
}

int ioctl(int fd, unsigned long what, ...) {
    va_list rest;
    va_start(rest, what);
    void *told = va_arg(rest, void *);
    va_end(rest);
    if (fd < 0 || fd != camera || what == FIONBIO) /* the last is the kernel's own */
        return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(fd, what, told);
    struct v4l2_buffer *buffer = told;
    switch (what) {
    case VIDIOC_QUERYCAP:
        ((struct v4l2_capability *)told)->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    case VIDIOC_G_INPUT:
        *(int *)told = 0;
        return 0;
    case VIDIOC_ENUMINPUT:
        return ((struct v4l2_input *)told)->index ? failed(EINVAL) : 0;
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
        return shape(told);
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM:
        ((struct v4l2_streamparm *)told)->parm.capture.timeperframe = (struct v4l2_fract){1, 25};
        return 0;
    case VIDIOC_REQBUFS:
        {
        struct v4l2_requestbuffers *asked = told;
        if (asked->count > MAX_BUFFERS) asked->count = MAX_BUFFERS;
        return 0;
    }
    case VIDIOC_QUERYBUF:
        buffer->length = picture_size();
        buffer->m.offset = buffer->index; /* its number: mmap above understands it */
        return 0;
    case VIDIOC_QBUF:
        queued[(first + waiting++) % MAX_BUFFERS] = buffer->index;
        return 0;
    case VIDIOC_DQBUF:
        return take(buffer);
    case VIDIOC_STREAMON:
        began = now();
        return 0;
    case VIDIOC_STREAMOFF:
        return 0;
    }
    return failed(ENOTTY);
}
