# A guest in one sector, for tests that cannot wait for a Linux to boot. In rounds it reads 64 sectors and 64 pages,
# each of which must carry the number of the round before, and writes them with the number of this one. Over the
# serial port it says `B` when it boots, `.` after each round, `E` where something was not as written. It powers off
# when asked to, and resets its machine when it is told `R`.

	.set SECTORS, 64
	.set BUFFER, 0x8000
	.set PAGES, 0x2000		# segment
	.set SERIAL, 0x3f8
	.set SERIAL_STATUS, 0x3fd
	.set KEYBOARD, 0x64
	.set RESET, 0xfe
	.set PM1_STATUS, 0x600		# of the q35's power management, as SeaBIOS sets it up
	.set PM1_ENABLE, 0x602
	.set PM1_CONTROL, 0x604
	.set POWER_BUTTON, 0x100
	.set SLEEP_ENABLE, 0x2000	# into S5: off

	.code16
	.globl _start
_start:	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw $0x7c00, %sp
	movb %dl, drive
	movw $PM1_ENABLE, %dx
	movw $POWER_BUTTON, %ax
	outw %ax, %dx
	movb $'B', %al
	call say

round:	incl number
	movl $1, lba
sector:	movw $PM1_STATUS, %dx
	inw %dx, %ax
	testw $POWER_BUTTON, %ax
	jnz off
	movw $SERIAL_STATUS, %dx
	inb %dx, %al
	testb $1, %al
	jz work
	movw $SERIAL, %dx
	inb %dx, %al
	cmpb $'R', %al
	jne work
	movb $RESET, %al
	outb %al, $KEYBOARD
	hlt

work:
	movw lba, %ax
	shlw $8, %ax
	addw $PAGES, %ax
	movw %ax, %es
	movl number, %ecx
	decl %ecx
	jz write			# of the first round: nothing was written before it
	cmpl %ecx, %es:0
	jne fault
	movb $0x42, %ah
	call disk
	jc fault
	movl number, %ecx
	decl %ecx
	cmpl %ecx, BUFFER
	jne fault
	movl lba, %eax
	cmpl %eax, BUFFER + 4
	jne fault

write:	movl number, %ecx
	movl %ecx, %es:0
	movl %ecx, BUFFER
	movl lba, %eax
	movl %eax, BUFFER + 4
	movw $0x4300, %ax
	call disk
	jc fault
next:	incl lba
	cmpl $SECTORS, lba
	jbe sector
	movb $'.', %al
	call say
	jmp round

fault:	movb $'E', %al
	call say
	jmp next

off:	movw $PM1_CONTROL, %dx
	movw $SLEEP_ENABLE, %ax
	outw %ax, %dx
	hlt
	jmp off

# The function in %ah on the sector `lba`; carry where it failed.
disk:	pushw %es
	movb drive, %dl
	movw $packet, %si
	int $0x13
	popw %es
	ret

say:	movw $SERIAL, %dx
	outb %al, %dx
	ret

	.balign 4
drive:	.byte 0
	.balign 4
number:	.long 0
packet:	.byte 16, 0
	.word 1				# sectors
	.word BUFFER, 0
lba:	.quad 0

	.org 510
	.word 0xaa55
